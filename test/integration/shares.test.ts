/** Fair sharing of a server between client addresses. Linux can connect from all of 127.0.0.0/8. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { connect, type Socket } from "node:net";
import process from "node:process";
import { describe, it } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { DownloadPieceRequestSchema } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { encodePacket } from "../../src/protocol/packet.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import {
  Flag,
  Frame,
  frame,
  headerBlock,
  headerFrames,
  PREFACE,
  uint32s,
} from "../support/hostile-http2.ts";
import { seededBytes } from "../support/random.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

const taskId = "5a".repeat(32);
const PIECE_BYTES = 400_000;
/** Upload rate limit in bytes/s. The bucket holds one second's worth. */
const UPLOAD_BYTES_PER_S = 800_000;
const GREEDY_REQUESTS = 20;

describe("the upload rate", {
  skip: process.platform === "linux" ? false : "only Linux has all of 127.0.0.0/8",
}, () => {
  for (const [protocol, asking] of [
    ["tcp", overTcp],
    ["grpc", overGrpc],
  ] as const) {
    it(`is shared equally between client addresses over ${protocol}, regardless of their demand`, async () => {
      const store = new MemoryPieceStore();
      store.putTask(taskId, seededBytes(1, PIECE_BYTES), { pieceLength: PIECE_BYTES });
      const { startServer } = await runtimeEntry();
      const server = await startServer({
        store,
        host: "127.0.0.1",
        [protocol]: { port: 0 },
        uploadRateLimit: UPLOAD_BYTES_PER_S,
      });
      const port = server.addresses[protocol]?.port ?? 0;
      const sockets: Socket[] = [];
      try {
        let greedy = 0;
        for (let request = 0; request < GREEDY_REQUESTS; request++) {
          sockets.push(asking("127.0.0.1", port, (bytes) => (greedy += bytes)));
        }
        // Beyond the initial burst: from here on, the demand exceeds the rate.
        while (greedy < 1.5 * UPLOAD_BYTES_PER_S) await pause();
        const before = greedy;
        let honest = 0;
        sockets.push(asking("127.0.0.2", port, (bytes) => (honest += bytes)));
        while (honest < PIECE_BYTES) await pause();
        // An equal share plus bytes in flight. A FIFO queue would have sent them twenty times as
        // much.
        assert.ok(
          greedy - before < 3 * PIECE_BYTES,
          `${greedy - before} bytes went to the others, and ${honest} to this one`,
        );
      } finally {
        for (const socket of sockets) socket.destroy();
        await server.close({ grace: 0 });
      }
    });
  }
});

function overTcp(from: string, port: number, onBytes: (bytes: number) => void): Socket {
  const request = encodePacket({
    type: "download-piece",
    id: 1,
    kind: "standard",
    taskId,
    number: 0,
  });
  return open(from, port, onBytes, request);
}

/**
 * Sends one gRPC request over a raw HTTP/2 connection with windows for the whole answer. HTTP/2
 * libraries of some runtimes cannot set the local address.
 */
function overGrpc(from: string, port: number, onBytes: (bytes: number) => void): Socket {
  const INITIAL_WINDOW_SIZE = 4;
  const fields = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/dfdaemon.v2.DfdaemonUpload/DownloadPiece",
    ":authority": "localhost",
    "content-type": "application/grpc",
    te: "trailers",
  };
  const message = toBinary(
    DownloadPieceRequestSchema,
    create(DownloadPieceRequestSchema, { taskId, pieceNumber: 0 }),
  );
  const envelope = Buffer.alloc(5 + message.length);
  envelope.writeUInt32BE(message.length, 1);
  envelope.set(message, 5);
  const setting = Buffer.alloc(6);
  setting.writeUInt16BE(INITIAL_WINDOW_SIZE, 0);
  setting.writeUInt32BE(4 * PIECE_BYTES, 2);
  const bytes = Buffer.concat([
    PREFACE,
    frame(Frame.Settings, 0, 0, setting),
    frame(Frame.WindowUpdate, 0, 0, uint32s(4 * PIECE_BYTES)),
    headerFrames(1, headerBlock(fields), false),
    frame(Frame.Data, Flag.EndStream, 1, envelope),
  ]);
  return open(from, port, onBytes, bytes);
}

function open(
  localAddress: string,
  port: number,
  onBytes: (bytes: number) => void,
  request: Uint8Array,
): Socket {
  const socket = connect({ host: "127.0.0.1", port, localAddress });
  socket.on("error", () => {});
  socket.on("data", ({ length }) => onBytes(length));
  socket.write(request);
  return socket;
}

function pause(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 5);
  });
}

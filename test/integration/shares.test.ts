/** What clients on different addresses have of one server. Linux has all of 127.0.0.0/8 to connect from. */
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
import { runtimeFace } from "../support/runtime-face.ts";

const taskId = "5a".repeat(32);
const PIECE = 400_000;
/** Bytes a second, of which a second's worth goes at once. */
const RATE = 800_000;
const GREEDY = 20;

describe("the upload rate", {
  skip: process.platform === "linux" ? false : "other addresses of this host are Linux's",
}, () => {
  for (const [protocol, asking] of [
    ["tcp", overTcp],
    ["grpc", overGrpc],
  ] as const) {
    it(`is shared by the addresses that ask over ${protocol}, however much each asks for`, async () => {
      const store = new MemoryPieceStore();
      store.putTask(taskId, seededBytes(1, PIECE), { pieceLength: PIECE });
      const { startServer } = await runtimeFace();
      const server = await startServer({
        store,
        host: "127.0.0.1",
        [protocol]: { port: 0 },
        uploadRateLimit: RATE,
      });
      const port = server.addresses[protocol]?.port ?? 0;
      const sockets: Socket[] = [];
      try {
        let greedy = 0;
        for (let request = 0; request < GREEDY; request++) {
          sockets.push(asking("127.0.0.1", port, (bytes) => (greedy += bytes)));
        }
        // More than goes at once: from here on there is less than is asked for.
        while (greedy < 1.5 * RATE) await pause();
        const before = greedy;
        let honest = 0;
        sockets.push(asking("127.0.0.2", port, (bytes) => (honest += bytes)));
        while (honest < PIECE) await pause();
        // As much, and what was on its way. A queue of requests would have sent them twenty times as much.
        assert.ok(
          greedy - before < 3 * PIECE,
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

/** As HTTP/2 has it, since its APIs do not all say where to connect from: windows for all of the answer, and one request. */
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
  setting.writeUInt32BE(4 * PIECE, 2);
  const bytes = Buffer.concat([
    PREFACE,
    frame(Frame.Settings, 0, 0, setting),
    frame(Frame.WindowUpdate, 0, 0, uint32s(4 * PIECE)),
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

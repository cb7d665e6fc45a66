/** Answers of the Vortex server, and those that it has in common with the one for gRPC. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { describe, it } from "node:test";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { GrpcDownloader } from "../../src/client/grpc.ts";
import { downloaderSettings } from "../../src/client/settings.ts";
import { VortexDownloader } from "../../src/client/vortex-downloader.ts";
import type { VortexError } from "../../src/errors.ts";
import { PacketDecoder } from "../../src/protocol/decoder.ts";
import { encodePacket, RemoteErrorCode } from "../../src/protocol/packet.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { MemoryPieceStore } from "../../src/server/memory-store.ts";
import type { PieceStore } from "../../src/server/store.ts";
import { type ServerOptions, serverSettings } from "../../src/server/upload.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import type { OperationResult, Telemetry } from "../../src/telemetry.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { ByteStream, Transport } from "../../src/transport/transport.ts";
import { rejectionOf } from "../support/failures.ts";
import { fakeRuntime, settle } from "../support/fake-clock.ts";
import { joined, seededBytes } from "../support/random.ts";

const taskId = "ab".repeat(32);
const local = { host: "127.0.0.1", port: 0 };
const content = seededBytes(9, 100_000);

/** A store with one piece of all of {@link content}, which yields `chunks` for it. */
function storeYielding(chunks: readonly Uint8Array[], announced: number = content.length): PieceStore {
  const stored = new MemoryPieceStore();
  stored.putTask(taskId, content.subarray(0, announced), { pieceLength: content.length });
  return {
    getTask: (id) => stored.getTask(id),
    async getPiece(request) {
      const piece = await stored.getPiece(request);
      return (
        piece && {
          metadata: piece.metadata,
          async *read() {
            yield* chunks;
          },
        }
      );
    },
  };
}

/** Outcomes of the answers of a server. */
class Outcomes implements Telemetry {
  readonly ended: string[] = [];

  begin() {
    return {
      run: <T>(work: () => T): T => work(),
      end: ({ bytes, error }: OperationResult): void => {
        this.ended.push(String(error?.code ?? bytes));
      },
    };
  }
}

interface Served {
  readonly downloader: VortexDownloader | GrpcDownloader;
  readonly addr: string;
  close(): Promise<void>;
}

const vortexOver =
  (transport: Transport) =>
  async (store: PieceStore, options: ServerOptions): Promise<Served> => {
    const server = await VortexServer.listen(transport, local, store, portableRuntime, options);
    const downloader = new VortexDownloader(async () => transport, downloaderSettings({}, portableRuntime));
    return { downloader, addr: `127.0.0.1:${server.address.port}`, close: () => server.close() };
  };

const protocols: Readonly<Record<string, (store: PieceStore, options: ServerOptions) => Promise<Served>>> = {
  "Vortex over memory": (store, options) => vortexOver(new MemoryTransport())(store, options),
  "Vortex over TCP": vortexOver(tcpTransport),
  gRPC: async (store, options) => {
    const server = await grpcServer(local, store, serverSettings(options, portableRuntime));
    const downloader = new GrpcDownloader(async () => grpcBinding(), downloaderSettings({}, portableRuntime));
    return { downloader, addr: `127.0.0.1:${server.address.port}`, close: () => server.close() };
  },
};

const half = content.subarray(0, 50_000);
const rest = content.subarray(50_000);
const wrongStores: readonly (readonly [what: string, chunks: readonly Uint8Array[], got: string])[] = [
  ["nothing", [], "0"],
  ["fewer bytes than it announced", [half], "50000"],
  ["a byte fewer", [half, rest.subarray(1)], "99999"],
  ["more bytes in one chunk", [half, content], "at least 150000"],
  ["more bytes after the last", [half, rest, Uint8Array.of(1)], "at least 100001"],
];

for (const [protocol, start] of Object.entries(protocols)) {
  describe(`a store that is not as it announced: ${protocol}`, () => {
    for (const [what, chunks, got] of wrongStores) {
      it(`${what}: onError and telemetry learn of it`, async () => {
        const errors: VortexError[] = [];
        const telemetry = new Outcomes();
        const options = { onError: (error: VortexError) => errors.push(error), telemetry };
        const { downloader, addr, close } = await start(storeYielding(chunks), options);
        const request = { addr, hostId: "host", taskId, number: 0 };
        const outcome = await downloader
          .downloadPiece(request)
          .then((piece) => piece.bytes())
          .catch((error: VortexError) => error);
        // Bytes too many after the last are known when the peer has the right ones.
        if (!(outcome instanceof Error)) assert.ok(what === "more bytes after the last", "an answer without an error");
        while (telemetry.ended.length === 0) await settle();
        await downloader.close();
        await close();
        assert.deepEqual(telemetry.ended, ["StorageFailed"]);
        assert.deepEqual(
          errors.map(({ code, message }) => `${code} ${message}`),
          [`StorageFailed piece 0: expected 100000 bytes from the store, got ${got}`],
        );
      });
    }

    it("empty chunks are none, before, between and after the others", async () => {
      const errors: VortexError[] = [];
      const telemetry = new Outcomes();
      const empty = new Uint8Array(0);
      const options = { onError: (error: VortexError) => errors.push(error), telemetry };
      const { downloader, addr, close } = await start(storeYielding([empty, half, empty, rest, empty]), options);
      const piece = await downloader.downloadPiece({ addr, hostId: "host", taskId, number: 0 });
      assert.deepEqual(await piece.bytes(), content);
      while (telemetry.ended.length === 0) await settle();
      await downloader.close();
      await close();
      assert.deepEqual([telemetry.ended, errors], [["100000"], []]);
    });
  });
}

/** A stream to a server that answers from a store of one piece, on a clock that the test moves. */
async function streamTo(use: (stream: ByteStream) => Promise<void>): Promise<void> {
  const { clock } = fakeRuntime();
  const transport = new MemoryTransport();
  const store = storeYielding([content]);
  const server = await VortexServer.listen(transport, local, store, fakeRuntime(clock));
  const connection = await transport.dial(server.address);
  await use(await connection.openStream());
  connection.abort();
  await server.close({ grace: 0 });
}

function request(number: number = 0): Uint8Array {
  return encodePacket({ type: "download-piece", id: 7, taskId, kind: "standard", number });
}

async function readAll({ reader }: ByteStream): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read()) chunks.push(chunk);
  return joined(chunks);
}

describe("bytes behind a request", () => {
  const bound = 64 * 1024;

  it("up to 64 KiB are dropped, and the answer comes", () =>
    streamTo(async (stream) => {
      const answer = readAll(stream);
      await stream.writer.write(request());
      for (let sent = 0; sent < bound; sent += 1024) await stream.writer.write(new Uint8Array(1024));
      // Until all are read: a server that gave up by then takes no end.
      for (let turn = 0; turn < 20; turn++) await settle();
      await stream.writer.end();
      assert.deepEqual((await answer).subarray(-content.length), content);
    }));

  it("one more, and the server stops reading; the answer comes all the same", () =>
    streamTo(async (stream) => {
      const answer = readAll(stream);
      await stream.writer.write(request());
      for (let sent = 0; sent < bound; sent += 1024) await stream.writer.write(new Uint8Array(1024));
      const refused = rejectionOf(
        (async () => {
          for (let sent = 0; sent < bound; sent++) {
            await stream.writer.write(Uint8Array.of(0));
            await settle();
          }
        })(),
      );
      assert.equal((await refused).code, "StreamReset");
      assert.deepEqual((await answer).subarray(-content.length), content);
    }));
});

describe("an error over TCP", () => {
  it("reaches a client that still sends when it comes: no reset takes it away", { timeout: 60_000 }, async () => {
    const server = await VortexServer.listen(tcpTransport, local, storeYielding([content]), portableRuntime);
    // Closing a socket with unread bytes makes the kernel send a reset, which discards what the
    // peer has not read.
    const socket = connect({ port: server.address.port, host: local.host, allowHalfOpen: true });
    const chunks: Uint8Array[] = [];
    const ended = new Promise<void>((resolve, reject) => socket.once("end", resolve).once("error", reject));
    const answered = new Promise<void>((resolve) => socket.once("data", () => resolve()));
    socket.on("data", (chunk: Uint8Array) => chunks.push(chunk));
    socket.write(request(5));
    await answered;
    socket.pause();
    for (let count = 0; count < 40; count++) socket.write(new Uint8Array(1024));
    socket.end();
    await settle();
    socket.resume();
    await ended;
    const decoder = new PacketDecoder();
    decoder.push(joined(chunks));
    const packet = decoder.next();
    assert.ok(packet?.type === "error");
    assert.equal(packet.code, RemoteErrorCode.NotFound);
    socket.destroy();
    await server.close();
  });
});

/** Answers of the Vortex server, and behaviour that it shares with the gRPC server. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { describe, it } from "node:test";
import { grpcBinding } from "../../../adapters/grpc/client.ts";
import { grpcServer } from "../../../adapters/grpc/server.ts";
import { tcpTransport } from "../../../adapters/tcp/transport.ts";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { GrpcDownloader } from "../../../src/client/grpc/downloader.ts";
import { VortexDownloader } from "../../../src/client/vortex/downloader.ts";
import type { VortexError } from "../../../src/errors.ts";
import { PacketDecoder } from "../../../src/protocol/decoder.ts";
import { encodePacket, RemoteErrorCode } from "../../../src/protocol/packet.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import { type ServerOptions, serverSettings } from "../../../src/server/admission/upload.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import type { PieceStore } from "../../../src/store/store.ts";
import type { OperationResult, Telemetry } from "../../../src/telemetry.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import { AsyncQueue } from "../../../src/transport/queue.ts";
import {
  type ByteReader,
  type ByteStream,
  type ByteWriter,
  type CloseInfo,
  type Connection,
  type Listener,
  StreamCode,
  type Transport,
} from "../../../src/transport/transport.ts";
import { rejectionOf } from "../../support/failures.ts";
import { fakeRuntime, settle } from "../../support/fake-clock.ts";
import { joined, seededBytes } from "../../support/random.ts";

const taskId = "ab".repeat(32);
const local = { host: "127.0.0.1", port: 0 };
const content = seededBytes(9, 100_000);

/** Creates a store with one piece. It announces {@link content}, and yields `chunks`. */
function storeYielding(
  chunks: readonly Uint8Array[],
  announced: number = content.length,
): PieceStore {
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

/** Records the outcomes of a server's answers. */
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
    const downloader = new VortexDownloader(
      async () => transport,
      downloaderSettings({}, portableRuntime),
    );
    return { downloader, addr: `127.0.0.1:${server.address.port}`, close: () => server.close() };
  };

const protocols: Readonly<
  Record<string, (store: PieceStore, options: ServerOptions) => Promise<Served>>
> = {
  "Vortex over memory": (store, options) => vortexOver(new MemoryTransport())(store, options),
  "Vortex over TCP": vortexOver(tcpTransport),
  gRPC: async (store, options) => {
    const server = await grpcServer(local, store, serverSettings(options, portableRuntime));
    const downloader = new GrpcDownloader(
      async () => grpcBinding(),
      downloaderSettings({}, portableRuntime),
    );
    return { downloader, addr: `127.0.0.1:${server.address.port}`, close: () => server.close() };
  },
};

const half = content.subarray(0, 50_000);
const rest = content.subarray(50_000);
const wrongStores: readonly (readonly [
  what: string,
  chunks: readonly Uint8Array[],
  got: string,
])[] = [
  ["nothing", [], "0"],
  ["fewer bytes than it announced", [half], "50000"],
  ["a byte fewer", [half, rest.subarray(1)], "99999"],
  ["more bytes in one chunk", [half, content], "at least 150000"],
  ["more bytes after the last", [half, rest, Uint8Array.of(1)], "at least 100001"],
];

for (const [protocol, start] of Object.entries(protocols)) {
  describe(`a store that yields other bytes than it announced: ${protocol}`, () => {
    for (const [what, chunks, got] of wrongStores) {
      it(`${what}: reported to onError and telemetry`, async () => {
        const errors: VortexError[] = [];
        const telemetry = new Outcomes();
        const options = { onError: (error: VortexError) => errors.push(error), telemetry };
        const { downloader, addr, close } = await start(storeYielding(chunks), options);
        const request = { addr, hostId: "host", taskId, number: 0 };
        const outcome = await downloader
          .downloadPiece(request)
          .then((piece) => piece.bytes())
          .catch((error: VortexError) => error);
        // Surplus bytes after the last chunk are found when the peer has the right ones already.
        if (!(outcome instanceof Error))
          assert.ok(what === "more bytes after the last", "an answer without an error");
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

    it("empty chunks are skipped, before, between and after others", async () => {
      const errors: VortexError[] = [];
      const telemetry = new Outcomes();
      const empty = new Uint8Array(0);
      const options = { onError: (error: VortexError) => errors.push(error), telemetry };
      const { downloader, addr, close } = await start(
        storeYielding([empty, half, empty, rest, empty]),
        options,
      );
      const piece = await downloader.downloadPiece({ addr, hostId: "host", taskId, number: 0 });
      assert.deepEqual(await piece.bytes(), content);
      while (telemetry.ended.length === 0) await settle();
      await downloader.close();
      await close();
      assert.deepEqual([telemetry.ended, errors], [["100000"], []]);
    });
  });
}

/** Opens a stream to a server of one piece, on a clock that the test advances. */
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

function request(number: number = 0): Uint8Array<ArrayBuffer> {
  return encodePacket({ type: "download-piece", id: 7, taskId, kind: "standard", number });
}

async function readAll({ reader }: ByteStream): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
    chunks.push(chunk);
  return joined(chunks);
}

describe("bytes after a request", () => {
  const bound = 64 * 1024;

  it("up to 64 KiB are discarded, and the answer arrives", () =>
    streamTo(async (stream) => {
      const answer = readAll(stream);
      await stream.writer.write(request());
      for (let sent = 0; sent < bound; sent += 1024)
        await stream.writer.write(new Uint8Array(1024));
      // Wait until all are read: a server that had cancelled would not accept the end.
      for (let turn = 0; turn < 20; turn++) await settle();
      await stream.writer.end();
      assert.deepEqual((await answer).subarray(-content.length), content);
    }));

  it("beyond 64 KiB the server stops reading, and the answer still arrives", () =>
    streamTo(async (stream) => {
      const answer = readAll(stream);
      await stream.writer.write(request());
      for (let sent = 0; sent < bound; sent += 1024)
        await stream.writer.write(new Uint8Array(1024));
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
  it("reaches a client that is still sending: no reset discards it", {
    timeout: 60_000,
  }, async () => {
    const server = await VortexServer.listen(
      tcpTransport,
      local,
      storeYielding([content]),
      portableRuntime,
    );
    // Closing a socket with unread bytes makes the kernel send a reset, which discards what the
    // peer has not read.
    const socket = connect({ port: server.address.port, host: local.host, allowHalfOpen: true });
    const chunks: Uint8Array[] = [];
    const ended = new Promise<void>((resolve, reject) =>
      socket.once("end", resolve).once("error", reject),
    );
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

/** Stream with one request that records how the server ends it. */
class FakeStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  /** Codes with which the two directions were cancelled and aborted. */
  readonly given: { cancel?: number | undefined; abort?: number | undefined } = {};
  readonly #sent: Uint8Array[] = [];
  ended = false;
  /** Ends the direction of the request. */
  end: () => void = () => {};

  constructor(...chunks: readonly Uint8Array<ArrayBuffer>[]) {
    const left = [...chunks];
    const over = new Promise<undefined>((resolve) => {
      this.end = () => resolve(undefined);
    });
    this.reader = {
      read: async () => left.shift() ?? over,
      cancel: (code) => {
        this.given.cancel = code;
      },
    };
    this.writer = {
      write: async (chunk) => {
        this.#sent.push(chunk);
      },
      end: async (last) => {
        assert.equal(this.ended, false, "ended twice");
        if (last !== undefined) this.#sent.push(last);
        this.ended = true;
      },
      abort: (code) => {
        this.given.abort = code;
      },
    };
  }

  get sent(): Uint8Array {
    return joined(this.#sent);
  }
}

class FakeConnection implements Connection {
  readonly protocol = "quic";
  readonly remote = { host: "10.0.0.1", port: 1 };
  readonly resumed = false;
  readonly earlyData = "none";
  readonly ready: Promise<void> = Promise.resolve();
  readonly closed: Promise<CloseInfo> = new Promise(() => {});
  readonly streams = new AsyncQueue<ByteStream>();
  aborted: readonly unknown[] | undefined;

  async openStream(): Promise<ByteStream> {
    throw new Error("a server opens none");
  }

  accept(): AsyncIterable<ByteStream> {
    return this.streams;
  }

  async close(): Promise<void> {
    this.streams.end();
  }

  abort(code?: number, reason?: string): void {
    this.aborted = [code, reason];
    this.streams.end();
  }
}

/** Listener whose `close` is pending until the test resolves it. */
class FakeListener implements Listener {
  readonly address = local;
  readonly fingerprint: undefined;
  readonly connections = new AsyncQueue<Connection>();
  /** Grace of each call of `close`, in ms. */
  readonly graces: (number | undefined)[] = [];
  closed: () => void = () => {};
  readonly #closed = new Promise<void>((resolve) => {
    this.closed = resolve;
  });

  async setIdentity(): Promise<void> {}

  accept(): AsyncIterable<Connection> {
    return this.connections;
  }

  async close({ grace }: { readonly grace?: number } = {}): Promise<void> {
    this.graces.push(grace);
    await this.#closed;
    this.connections.end();
  }
}

/** Starts a server on a listener with one connection; the test controls both. */
function driven(store: PieceStore, options: ServerOptions = {}) {
  const { clock } = fakeRuntime();
  const listener = new FakeListener();
  const connection = new FakeConnection();
  const telemetry = new Outcomes();
  const server = new VortexServer(
    listener,
    store,
    serverSettings({ telemetry, ...options }, fakeRuntime(clock)),
  );
  listener.connections.push(connection);
  return { clock, listener, connection, telemetry, server };
}

/** Creates a store whose lookups are pending until the test resolves them. */
function waitingStore(): { readonly store: PieceStore; readonly answers: (() => void)[] } {
  const answers: (() => void)[] = [];
  const stored = storeYielding([content]);
  const store: PieceStore = {
    getTask: (id) => stored.getTask(id),
    async getPiece(wanted) {
      await new Promise<void>((resolve) => answers.push(resolve));
      return stored.getPiece(wanted);
    },
  };
  return { store, answers };
}

describe("a stream that the server abandons", () => {
  const cases: readonly (readonly [
    what: string,
    store: PieceStore,
    chunks: readonly Uint8Array<ArrayBuffer>[],
    code: number,
  ])[] = [
    ["without a request in time", storeYielding([content]), [], StreamCode.Timeout],
    [
      "whose client does not end its side after the content",
      storeYielding([content]),
      [request()],
      StreamCode.Timeout,
    ],
    [
      "whose client does not end its side after an error",
      storeYielding([content]),
      [request(5)],
      StreamCode.Timeout,
    ],
    [
      "whose store fails within the content",
      storeYielding([half]),
      [request()],
      StreamCode.Internal,
    ],
  ];
  for (const [what, store, chunks, code] of cases) {
    it(`${what}: both directions carry the code`, async () => {
      const { clock, connection } = driven(store, { requestTimeout: 1000, stallTimeout: 1000 });
      const stream = new FakeStream(...chunks);
      connection.streams.push(stream);
      if (code === StreamCode.Timeout) {
        await clock.advance(999);
        assert.deepEqual(stream.given, {});
        await clock.advance(1);
      }
      await settle();
      assert.deepEqual(stream.given, { cancel: code, abort: code });
      assert.equal(clock.pending, 0);
    });
  }

  it("a stream is not abandoned if the client ends its side in time; the answer ends once, with its last bytes", async () => {
    for (const number of [0, 5]) {
      const { clock, connection, telemetry } = driven(storeYielding([half, rest]));
      const stream = new FakeStream(request(number));
      connection.streams.push(stream);
      await settle();
      assert.equal(stream.ended, true);
      assert.deepEqual(telemetry.ended, []);
      stream.end();
      await settle();
      assert.deepEqual(telemetry.ended, [number === 0 ? "100000" : "NotFound"]);
      assert.deepEqual([stream.given, clock.pending], [{}, 0]);
    }
  });

  it("a stream is not abandoned after an empty piece, whose answer is a header", async () => {
    const empty = storeYielding([]);
    const store: PieceStore = {
      getTask: async () => undefined,
      async getPiece(wanted) {
        const piece = await empty.getPiece(wanted);
        return piece && { ...piece, metadata: { ...piece.metadata, length: 0n } };
      },
    };
    const { connection, telemetry } = driven(store);
    const stream = new FakeStream(request());
    connection.streams.push(stream);
    stream.end();
    await settle();
    assert.deepEqual([stream.ended, telemetry.ended], [true, ["0"]]);
    const decoder = new PacketDecoder();
    decoder.push(stream.sent);
    assert.equal(decoder.next()?.type, "piece-content");
  });
});

describe("closing a Vortex server", () => {
  it("waits for every answer, and passes the rest of the grace on to the listener", async () => {
    const { store, answers } = waitingStore();
    const { clock, listener, connection, server } = driven(store);
    for (let count = 0; count < 2; count++) {
      const stream = new FakeStream(request());
      stream.end();
      connection.streams.push(stream);
    }
    await settle();
    const closing = server.close({ grace: 5000 });
    await clock.advance(700);
    answers[0]?.();
    await settle();
    assert.deepEqual(listener.graces, []);
    await clock.advance(500);
    answers[1]?.();
    await settle();
    assert.deepEqual(listener.graces, [3800]);
    connection.streams.end();
    listener.closed();
    await closing;
  });

  it("refuses connections that arrive meanwhile, and does not wait for finished work", async () => {
    const { clock, listener, connection, server } = driven(storeYielding([content]));
    const stream = new FakeStream(request());
    stream.end();
    connection.streams.push(stream);
    await settle();
    const closing = server.close();
    const late = new FakeConnection();
    listener.connections.push(late);
    await settle();
    assert.deepEqual(late.aborted, [StreamCode.Busy, "the server is closing"]);
    connection.streams.end();
    listener.closed();
    await closing;
    assert.equal(clock.pending, 0);
  });
});

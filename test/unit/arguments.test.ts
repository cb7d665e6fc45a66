/** Wrong arguments and options, as plain JavaScript can pass them, at each public entry. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { fileSink } from "../../adapters/files/sink.ts";
import { FilePieceStore } from "../../adapters/files/store.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { openTelemetry } from "../../adapters/opentelemetry.ts";
import { invalid, requireInteger, requireOptions, toInteger } from "../../src/arguments.ts";
import { createDownloader as coreDownloader } from "../../src/client/core-factory.ts";
import { type DownloaderOptions, downloaderFactory } from "../../src/client/factory.ts";
import type { Downloader } from "../../src/client/task-downloader.ts";
import { TcpDownloader } from "../../src/client/vortex/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import {
  hostId,
  peerId,
  persistentCacheTaskId,
  persistentTaskId,
  taskIdOfBlob,
  taskIdOfContent,
  taskIdOfUrl,
} from "../../src/ids.ts";
import { pieceLengthFor, planTask } from "../../src/piece.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import {
  type StorageServer,
  type StorageServerOptions,
  startStorageServer,
} from "../../src/server/storage-server.ts";
import { QuicServer, TcpServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { memorySink } from "../../src/task/memory-sink.ts";
import { parseAddress } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import { assertRejects, assertThrows, thrownBy } from "../support/failures.ts";
import { fakeRuntime } from "../support/fake-clock.ts";

const taskId = "a1".repeat(32);
const runtime = fakeRuntime();
const unavailable = (): Promise<never> => Promise.reject(new VortexError("Unavailable", "no"));
const transport = new MemoryTransport("tcp");

const createDownloader = downloaderFactory({
  runtime,
  tcp: async () => transport,
  quic: unavailable,
  grpc: (settings) => new TcpDownloader(unavailable, settings),
});

/** Calls `run` as JavaScript without types can. */
// biome-ignore lint/complexity/noBannedTypes: the tests pass arguments of wrong types
function untyped(run: Function): (...args: readonly unknown[]) => unknown {
  return (...args) => Reflect.apply(run, undefined, args);
}

const create = untyped((options: DownloaderOptions) => createDownloader(options));
const tcp = (options: object): unknown => create({ protocol: "tcp", ...options });

describe("options", () => {
  for (const [what, run, message] of [
    ["null", () => create(null), "options of createDownloader: expected an object, got null"],
    ["text", () => create("tcp"), 'options of createDownloader: expected an object, got "tcp"'],
    ["an array", () => create([]), "options of createDownloader: expected an object, got […]"],
    [
      "a misspelt name",
      () => create({ protocl: "tcp" }),
      'option of createDownloader: expected a known name, got "protocl"; did you mean "protocol"?',
    ],
    [
      "a misspelt nested name",
      () => tcp({ pool: { capcity: 1 } }),
      'option of createDownloader: expected a known name, got "pool.capcity"; did you mean "pool.capacity"?',
    ],
    [
      "an unknown name",
      () => tcp({ somethingElse: 1 }),
      'option of createDownloader: expected a known name, got "somethingElse"',
    ],
    [
      "an unknown protocol",
      () => create({ protocol: "udp" }),
      /^protocol: expected tcp, quic, grpc, auto, hybrid, got "?udp"?$/,
    ],
    ["a text as a number", () => tcp({ pieceTimeout: "5" }), /^pieceTimeout: .*, got "5"$/],
    ["NaN", () => tcp({ stallTimeout: Number.NaN }), /^stallTimeout: .*, got NaN$/],
    ["a negative number", () => tcp({ patience: -1 }), /^patience: .*, got -1$/],
    ["a bigint as a timeout", () => tcp({ patience: 5n }), /^patience: .*, got 5n$/],
    ["a bigint beyond 2^53", () => tcp({ rateLimit: 2n ** 60n }), /^rateLimit: .*, got 1152\d+n$/],
    ["null as a number", () => tcp({ rateLimit: null }), /^rateLimit: .*, got null$/],
    ["a number as a flag", () => tcp({ earlyData: 1 }), "earlyData: expected true or false, got 1"],
    ["a text as an object", () => tcp({ pool: "x" }), 'pool: expected an object, got "x"'],
    [
      "an object as a function",
      () => tcp({ onProtocol: {} }),
      "onProtocol: expected a function, got {…}",
    ],
    [
      "a function as an observer",
      () => tcp({ telemetry: () => {} }),
      "telemetry: expected an observer with begin, got a function",
    ],
    [
      "a text as fingerprints",
      () => tcp({ tls: { fingerprints: "ab" } }),
      /^tls\.fingerprints: .*/,
    ],
    [
      "a number among fingerprints",
      () => create({ protocol: "quic", tls: { fingerprints: [7] } }),
      "tls.fingerprints[0]: expected text, got 7",
    ],
    [
      "bytes as a certificate",
      () => create({ protocol: "quic", tls: { ca: new Uint8Array(2) } }),
      "tls.ca: expected text, got {…}",
    ],
    [
      "another congestion control",
      () => create({ protocol: "quic", quic: { congestionControl: "reno" } }),
      'quic.congestionControl: expected bbr or cubic, got "reno"',
    ],
    [
      "port 0",
      () => create({ protocol: "auto", ports: { tcp: 0 } }),
      "ports.tcp: expected an integer from 1 to 65535, got 0",
    ],
    [
      "peers of another kind",
      () => create({ protocol: "auto", auto: { quicPeers: "some" } }),
      'auto.quicPeers: expected known or any, got "some"',
    ],
    [
      "a transport that is none",
      () => untyped(coreDownloader)({ protocol: "tcp", transport: {} }),
      "transport: expected a transport with dial, got {…}",
    ],
    [
      "no options, in the core",
      () => untyped(coreDownloader)(),
      "options of createDownloader: expected an object, got undefined",
    ],
  ] as const) {
    it(`that are ${what} fail with InvalidArgument`, () => {
      const error = assertThrows(run, "InvalidArgument");
      if (typeof message === "string") assert.equal(error.message, message);
      else assert.match(error.message, message);
    });
  }

  it("that are undefined count as absent, each of them", async () => {
    const every = {
      hostId: undefined,
      connectTimeout: undefined,
      pieceTimeout: undefined,
      stallTimeout: undefined,
      patience: undefined,
      maxPieceLength: undefined,
      maxMetadataLength: undefined,
      unverifiedPieces: undefined,
      pool: undefined,
      concurrentPieceCount: undefined,
      parentConcurrency: undefined,
      rateLimit: undefined,
      earlyData: undefined,
      telemetry: undefined,
      tls: undefined,
      apiTls: undefined,
      quic: undefined,
      ports: undefined,
      auto: undefined,
      onProtocol: undefined,
    } satisfies Record<Exclude<keyof DownloaderOptions, "protocol">, undefined>;
    await (create() as Downloader).close();
    for (const protocol of ["tcp", "quic", "grpc", "auto", "hybrid", undefined])
      await (create({ protocol, ...every }) as Downloader).close();
    const nested = {
      ports: { quic: undefined, tcp: undefined, grpc: undefined },
      auto: { quicPeers: undefined, delay: undefined, expiry: undefined },
      pool: {
        connectionsPerAddress: undefined,
        capacity: undefined,
        idleTimeout: undefined,
        cleanupInterval: undefined,
      },
      tls: {
        ca: undefined,
        fingerprints: undefined,
        verify: undefined,
        serverName: undefined,
        cert: undefined,
        key: undefined,
      },
      quic: { congestionControl: undefined, udpPayloadSize: undefined, idleTimeout: undefined },
    };
    for (const protocol of ["tcp", "quic", "grpc", "auto", "hybrid"])
      await (create({ protocol, ...nested }) as Downloader).close();
  });

  it("may be a number or a bigint where they are a rate", async () => {
    for (const rateLimit of [1_000_000, 1_000_000n])
      await (tcp({ rateLimit }) as Downloader).close();
  });
});

describe("requests", () => {
  const downloader = createDownloader({ protocol: "tcp" });
  const piece = untyped(downloader.downloadPiece.bind(downloader));
  const good = { addr: "a:1", hostId: "h", taskId, number: 0 };
  for (const [what, args, message] of [
    ["no request", [], "options of downloadPiece: expected an object, got undefined"],
    ["an address alone", ["a:1"], /expected an object, got "a:1"$/],
    [
      "no address",
      [{ ...good, addr: undefined }],
      /^addr: expected host:port, or one per protocol, got undefined$/,
    ],
    ["an empty address", [{ ...good, addr: "" }], 'addr: expected non-empty text, got ""'],
    [
      "an address without a port",
      [{ ...good, addr: "a" }],
      /^address: expected host:port.*got "a"$/,
    ],
    ["an address per unknown protocol", [{ ...good, addr: { udp: "a:1" } }], /got "addr\.udp"$/],
    [
      "a number as address",
      [{ ...good, addr: 7 }],
      "addr: expected host:port, or one per protocol, got 7",
    ],
    [
      "no task id",
      [{ ...good, taskId: undefined }],
      "taskId: expected non-empty text, got undefined",
    ],
    [
      "a bigint as number",
      [{ ...good, number: 0n }],
      /^number: expected an integer from 0 .*got 0n$/,
    ],
    ["a text as number", [{ ...good, number: "0" }], /^number: .*, got "0"$/],
    ["no number", [{ ...good, number: undefined }], /^number: .*, got undefined$/],
    [
      "another kind",
      [{ ...good, kind: "special" }],
      /^kind: expected standard or .*, got "special"$/,
    ],
    ["a range that is a text", [{ ...good, range: "0-5" }], 'range: expected an object, got "0-5"'],
    ["a negative range", [{ ...good, range: { start: -1n } }], /^range\.start: .*, got -1n$/],
    ["a misspelt name", [{ ...good, hostid: "h" }], /got "hostid"; did you mean "hostId"\?$/],
    [
      "a controller in place of its signal",
      [{ ...good, signal: new AbortController() }],
      "signal: expected an AbortSignal, got {…}",
    ],
    ["a misspelt option", [{ ...good, singal: 1 }], /got "singal"; did you mean "signal"\?$/],
    [
      "an infinite timeout",
      [{ ...good, pieceTimeout: Infinity }],
      /^pieceTimeout: .*, got Infinity$/,
    ],
  ] as const) {
    it(`of a piece with ${what} reject with InvalidArgument`, async () => {
      const promise = piece(...args);
      assert.ok(promise instanceof Promise);
      const { message: found } = await assertRejects(promise, "InvalidArgument");
      if (typeof message === "string") assert.equal(found, message);
      else assert.match(found, message);
    });
  }

  it("of a piece take undefined for each option", async () => {
    const options = {
      hostId: undefined,
      signal: undefined,
      pieceTimeout: undefined,
      stallTimeout: undefined,
      unreadTimeout: undefined,
    };
    const request = { ...good, kind: undefined, range: undefined };
    await assertRejects(piece({ ...request, ...options }) as Promise<unknown>, "ConnectionRefused");
  });

  const lengths = { contentLength: 10, pieceLength: 4 };
  const task = { hostId: "h", taskId, parents: ["a:1"], ...lengths };
  const to = memorySink();
  for (const [what, request, options, message] of [
    [
      "no parents",
      { ...task, parents: undefined },
      { to },
      "parents: expected an array, got undefined",
    ],
    [
      "a text as parents",
      { ...task, parents: "a:1" },
      { to },
      'parents: expected an array, got "a:1"',
    ],
    ["a number among parents", { ...task, parents: [7] }, { to }, /^parents\[0\]: .*, got 7$/],
    ["a misspelt parent", { ...task, parents: [{ adr: "a:1" }] }, { to }, /"parents\[0\]\.adr"/],
    ["no destination", task, {}, "to: expected a path, a WritableStream or a sink, got undefined"],
    [
      "a number as destination",
      task,
      { to: 7 },
      "to: expected a path, a WritableStream or a sink, got 7",
    ],
    ["a listener that is none", task, { to, onEvent: 1 }, "onEvent: expected a function, got 1"],
    ["an invalid signal", task, { to, signal: {} }, "signal: expected an AbortSignal, got {…}"],
    ["a text as length", { ...task, contentLength: "10" }, { to }, /^contentLength: .*, got "10"$/],
    [
      "a length beyond 2^53",
      { ...task, contentLength: 2n ** 53n },
      { to },
      /^contentLength: .*992n$/,
    ],
    ["a fraction as length", { ...task, pieceLength: 0.5 }, { to }, /^pieceLength: .*, got 0\.5$/],
    [
      "a piece without length",
      { ...task, pieces: [{ number: 0, offset: 0 }] },
      { to },
      /^pieces\[0\]\.length/,
    ],
  ] as const) {
    it(`of a task with ${what} fail with InvalidArgument`, async () => {
      // Covers functions that throw and functions that reject.
      const run = async (): Promise<unknown> =>
        untyped(downloader.downloadTask.bind(downloader))({ ...request, ...options });
      const { message: found } = await assertRejects(run(), "InvalidArgument");
      if (typeof message === "string") assert.equal(found, message);
      else assert.match(found, message);
    });
  }
});

describe("servers", () => {
  const store = new MemoryPieceStore();
  const start = untyped((options: StorageServerOptions) =>
    startStorageServer(options, {
      runtime,
      identities: { serverIdentity: unavailable, create: unavailable, validate: async (it) => it },
      quicListener: unavailable,
      tcp: async () => transport,
      grpcServer: unavailable,
    }),
  );
  for (const [what, options, message] of [
    ["no options", undefined, "options of startServer: expected an object, got undefined"],
    ["no store", { tcp: { port: 0 } }, /^store: expected a store with getPiece and getTask, got/],
    ["a Map as store", { store: new Map(), tcp: { port: 0 } }, /^store: expected a store with/],
    ["a port that is a text", { store, tcp: { port: "1" } }, /^tcp\.port: .*, got "1"$/],
    ["a port alone", { store, tcp: 4005 }, "tcp: expected an object, got 4005"],
    ["no port", { store, grpc: {} }, /^grpc\.port: .*, got undefined$/],
    [
      "a misspelt limit",
      { store, tcp: { port: 0 }, maxConnection: 5 },
      /did you mean "maxConnections"/,
    ],
    [
      "a misspelt QUIC option",
      { store, quic: { port: 0, keepalive: 1 } },
      /mean "quic\.keepAlive"/,
    ],
    [
      "an identity store that is none",
      { store, tls: { identityStore: {} } },
      /^tls\.identityStore/,
    ],
    [
      "a number as host",
      { store, tcp: { port: 0 }, host: 7 },
      "host: expected non-empty text, got 7",
    ],
    [
      "a signal by its name",
      { store, tcp: { port: 0 }, closeOnSignals: "SIGTERM" },
      'closeOnSignals: expected true or false, got "SIGTERM"',
    ],
  ] as const) {
    it(`with ${what} reject with InvalidArgument`, async () => {
      const { message: found } = await assertRejects(
        start(options) as Promise<unknown>,
        "InvalidArgument",
      );
      if (typeof message === "string") assert.equal(found, message);
      else assert.match(found, message);
    });
  }

  it("on a runtime without signals reject closeOnSignals with Unavailable", async () => {
    await assertRejects(
      start({ store, tcp: { port: 0 }, closeOnSignals: true }) as Promise<unknown>,
      "Unavailable",
    );
  });

  const local = { host: "127.0.0.1", port: 0 };
  const listening = {
    TcpServer: (options: unknown) =>
      untyped((given: object) => TcpServer.listen(transport, local, store, runtime, given))(
        options,
      ),
    QuicServer: (options: unknown) =>
      untyped((given: object) => QuicServer.listen(transport, local, store, runtime, given))(
        options,
      ),
  };
  for (const [server, listen] of Object.entries(listening)) {
    for (const [what, options, message] of [
      [
        "a misspelt limit",
        { maxConections: 5 },
        /option of listen: .*did you mean "maxConnections"/,
      ],
      ["an unknown name", { colour: "red" }, /option of listen: .*got "colour"$/],
      ["a limit out of range", { maxStreams: 0 }, /^maxStreams: /],
      ["text", "fast", /options of listen: expected an object/],
      ["null", null, /options of listen: expected an object/],
    ] as const) {
      it(`by ${server}.listen with ${what} reject with InvalidArgument`, async () => {
        const error = await assertRejects(listen(options) as Promise<unknown>, "InvalidArgument");
        assert.match(error.message, message);
      });
    }
  }

  for (const [what, options, message] of [
    ["a misspelt name", { servng: {} }, /option of grpcServer: .*did you mean "serving"/],
    ["a misspelt field", { serving: { hostnam: "x" } }, /did you mean "serving\.hostname"/],
    ["a misspelt TLS option", { tls: { certs: "" } }, /did you mean "tls\.cert"/],
    ["a port that is a text", { serving: { tcpPort: "1" } }, /^serving\.tcpPort: /],
  ] as const) {
    it(`by grpcServer with ${what} reject with InvalidArgument`, async () => {
      const listen = untyped((given: object) =>
        grpcServer(local, store, serverSettings({}, runtime), given),
      );
      const error = await assertRejects(listen(options) as Promise<unknown>, "InvalidArgument");
      assert.match(error.message, message);
    });
  }

  it("take undefined for each option", async () => {
    const options = {
      store,
      tcp: { port: 9 },
      quic: undefined,
      grpc: undefined,
      host: undefined,
      tls: undefined,
      advertisedIp: undefined,
      hostname: undefined,
      uploadRateLimit: undefined,
      maxConnections: undefined,
      maxStreams: undefined,
      maxTaskStreams: undefined,
      maxPendingBytes: undefined,
      earlyData: undefined,
      requestTimeout: undefined,
      stallTimeout: undefined,
      idVersion: undefined,
      onError: undefined,
      telemetry: undefined,
      closeOnSignals: undefined,
    } satisfies Record<keyof StorageServerOptions, unknown>;
    await ((await start(options)) as StorageServer).close();
  });
});

describe("stores, sinks, ids and telemetry", () => {
  const store = new MemoryPieceStore();
  for (const [what, run, message] of [
    [
      "putTask without id",
      () => untyped(store.putTask.bind(store))("", new Uint8Array()),
      /^taskId: /,
    ],
    [
      "putTask of a text",
      () => untyped(store.putTask.bind(store))(taskId, "x"),
      /^content: .*"x"$/,
    ],
    [
      "putTask of another kind",
      () => untyped(store.putTask.bind(store))(taskId, new Uint8Array(), { kind: "x" }),
      /^kind: /,
    ],
    [
      "startTask beyond 2^53",
      () => untyped(store.startTask.bind(store))(taskId, 2n ** 53n),
      /^content length: /,
    ],
    ["memorySink with a text", () => untyped(memorySink)({ maxLength: "1" }), /^maxLength: .*"1"$/],
    ["memorySink with a number", () => untyped(memorySink)(5), /^options of memorySink: .*5$/],
    [
      "fileSink without path",
      () => untyped(fileSink)(),
      /^path: expected non-empty text, got unde/,
    ],
    ["taskIdOfUrl of a text", () => untyped(taskIdOfUrl)("http://a"), /^options of taskIdOfUrl: /],
    ["taskIdOfUrl without URL", () => untyped(taskIdOfUrl)({}), /^url: expected text, got undef/],
    [
      "taskIdOfUrl with a misspelt name",
      () => untyped(taskIdOfUrl)({ url: "http://a", aplication: "x" }),
      /did you mean "application"\?$/,
    ],
    ["taskIdOfContent of bytes", () => untyped(taskIdOfContent)(new Uint8Array()), /^content: /],
    ["taskIdOfBlob of nothing", () => untyped(taskIdOfBlob)(), /^url: /],
    ["persistentTaskId", () => untyped(persistentTaskId)({ url: "s3://a" }), /^region: /],
    ["hostId", () => untyped(hostId)({ ip: "1.2.3.4" }), /^hostname: .*, got undefined$/],
    [
      "peerId",
      () => untyped(peerId)({ ip: "1.2.3.4", hostname: "h", seed: "no" }),
      /^seed: .*"no"$/,
    ],
    ["openTelemetry", () => untyped(openTelemetry)(), /^argument of openTelemetry: .*undefined$/],
    ["openTelemetry of a part", () => untyped(openTelemetry)({}), /^trace: expected the trace API/],
    ["planTask", () => untyped(planTask)("5"), /^content length: .*"5"$/],
  ] as const) {
    it(`${what} throws InvalidArgument`, () => {
      assert.match(assertThrows(run, "InvalidArgument").message, message);
    });
  }

  it("functions that return promises reject", async () => {
    const files = new FilePieceStore();
    const add = untyped(files.addFile.bind(files));
    for (const [promise, message] of [
      [add(), /^path: /],
      [add("x", { taskId: "short" }), /^taskId: expected 64 printable .*"short"$/],
      [add("x", { pieceLenght: 5 }), /did you mean "pieceLength"\?$/],
      [untyped(persistentCacheTaskId)([], { tag: 5 }), /^tag: expected text, got 5$/],
    ] as const)
      assert.match(
        (await assertRejects(promise as Promise<unknown>, "InvalidArgument")).message,
        message,
      );
    await files.close();
  });

  it("lengths may be numbers or bigints, and come back as numbers", async () => {
    assert.deepEqual(planTask(10n, 4n), planTask(10, 4));
    assert.equal(pieceLengthFor(2n ** 40n), pieceLengthFor(2 ** 40));
    const url = "http://a/";
    assert.equal(taskIdOfUrl({ url, pieceLength: 4n }), taskIdOfUrl({ url, pieceLength: 4 }));
    const content = new Uint8Array(10);
    const task = store.putTask(taskId, content, { pieceLength: 4n, createdAtSeconds: 7 });
    assert.deepEqual([task.contentLength, task.pieceLength, task.createdAtSeconds], [10, 4, 7n]);
    assert.equal(store.startTask(taskId, 10n).task.contentLength, 10);
  });
});

describe("integers", () => {
  it("are of type number, or also bigint where the result is converted", () => {
    requireInteger("x", 5, 0, 5);
    for (const value of [5n, "5", 6, -1, 0.5, Number.NaN, undefined, null, {}, Symbol("s")])
      assertThrows(() => requireInteger("x", value, 0, 5), "InvalidArgument");
    assert.equal(toInteger("x", 5n, 0, 5), 5);
    assert.equal(toInteger("x", 5, 0, 5), 5);
    assert.ok(Object.is(toInteger("x", -0, 0, 5), 0));
    for (const value of [6n, -1n, "5", 2n ** 70n])
      assertThrows(() => toInteger("x", value, 0, 5), "InvalidArgument");
    assert.equal(toInteger("x", 2n ** 53n - 1n, 0, Number.MAX_SAFE_INTEGER), 2 ** 53 - 1);
  });
});

describe("messages about huge values", () => {
  it("are short, and no option name is compared that is much longer than the known ones", () => {
    const huge = "x".repeat(20_000_000);
    for (const value of [huge, 2n ** 10_000_000n, -(2n ** 300n), Symbol(huge), [huge], { huge }])
      assert.ok(invalid("x", "y", value).message.length < 120);
    assert.match(invalid("x", "y", -5n).message, /got -5n$/);
    const options = { [huge]: 1, ["-".repeat(1_000)]: 1 };
    const error = assertThrows(
      () => requireOptions("f", options, { x: () => {} }),
      "InvalidArgument",
    );
    assert.ok(error.message.length < 200);
    for (const protocol of [huge, `https://${huge}`])
      assert.ok(thrownBy(() => parseAddress(protocol)).message.length < 250);
  });
});

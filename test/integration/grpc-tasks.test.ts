import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createServer, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { describe, it } from "node:test";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { type OpenTelemetryApi, openTelemetry } from "../../adapters/opentelemetry.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { runtimeApi } from "../../entry/runtime-api.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { TransferOptions } from "../../src/client/downloader.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { type ErrorCode, VortexError } from "../../src/errors.ts";
import {
  DfdaemonUpload,
  DownloadTaskResponseSchema,
  StatLocalTaskResponseSchema,
  SyncPiecesResponseSchema,
} from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { taskIdOfUrl } from "../../src/ids.ts";
import { portableRuntime, type Runtime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import type { StorageServer, StorageServerOptions } from "../../src/server/storage-server.ts";
import { type MemoryPieceStore, memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { FakeClock, fakeRuntime, settle } from "../support/fake-clock.ts";
import { seededBytes } from "../support/random.ts";

const runtime: Runtime = { ...portableRuntime, hashers: nativeHashers };
const MEBI = 1024 * 1024;
const testOptions = { timeout: 60_000 };
const hostId = "10.0.0.1-host";
const source = { url: "https://example.com/file", application: "test" };
const taskId = taskIdOfUrl(source);
const content = seededBytes(11, 40 * MEBI + 12_345);
const entry = runtimeApi(async () => {
  throw new VortexError("Unavailable", "these tests do not use QUIC");
});

interface Peers {
  readonly server: StorageServer;
  readonly downloader: GrpcDownloader;
  /** gRPC address of the server. */
  readonly addr: string;
  readonly errors: readonly VortexError[];
}

/** Runs `use` with a TCP and gRPC server and a downloader, and closes both afterwards. */
async function withPeers(
  store: PieceStore,
  use: (peers: Peers) => Promise<void>,
  {
    server: serverOptions = {},
    client = {},
  }: { server?: Partial<StorageServerOptions>; client?: TransferOptions } = {},
): Promise<void> {
  const errors: VortexError[] = [];
  const onError = (error: VortexError): void => {
    errors.push(error);
  };
  const protocols = { tcp: { port: 0 }, grpc: { port: 0 } };
  const server = await entry.startServer({
    store,
    host: "127.0.0.1",
    ...protocols,
    onError,
    ...serverOptions,
  });
  const downloader = new GrpcDownloader(
    async () => grpcBinding(),
    downloaderSettings(client, runtime),
  );
  try {
    await use({ server, downloader, addr: `127.0.0.1:${server.addresses.grpc?.port}`, errors });
  } finally {
    await downloader.close();
    await server.close({ grace: 0 });
  }
}

function storeOf(pieceLength = 4 * MEBI): MemoryPieceStore {
  const store = memoryPieceStoreWith(nativeHashers);
  store.putTask(taskId, content, { pieceLength });
  return store;
}

/** Creates a store whose task has 1 MiB pieces, none of them yet, and counts its watchers. */
function growingStore() {
  const store = memoryPieceStoreWith(nativeHashers);
  const growing = store.startTask(taskId, content.length, { pieceLength: MEBI });
  const put = (number: number): void =>
    growing.putPiece(number, content.subarray(number * MEBI, (number + 1) * MEBI));
  let watchers = 0;
  const idle: (() => void)[] = [];
  const { task } = growing;
  const watched: PieceStore = {
    getPiece: (request) => store.getPiece(request),
    getTask: async () => ({
      ...task,
      complete: task.complete ?? true,
      pieces: () => task.pieces(),
      async *watch(options) {
        watchers++;
        try {
          yield* task.watch?.(options) ?? [];
        } finally {
          if (--watchers === 0) for (const resolve of idle.splice(0)) resolve();
        }
      },
    }),
  };
  const unwatched = (): Promise<void> =>
    new Promise((resolve) => {
      if (watchers === 0) resolve();
      else idle.push(resolve);
    });
  return { store: watched, growing, put, unwatched };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

describe("tasks over gRPC, between two peers without a scheduler", () => {
  it("one discovers the task and its pieces, and fetches them over TCP", testOptions, async () => {
    // A server on 0.0.0.0 announces the address at which the client reached it.
    const everywhere = { server: { host: "0.0.0.0" } };
    const use = async ({ server, downloader, addr }: Peers): Promise<void> => {
      const stat = await downloader.statTask(addr, taskId);
      assert.deepEqual(stat, { contentLength: content.length, pieceLength: 4 * MEBI });
      const request = { taskId, hostId, ...stat, interestedPieceNumbers: [0, 3, 10] };
      const pieces = await all(downloader.syncPieces(addr, request));
      assert.deepEqual(
        pieces.map(({ number }) => number),
        [0, 3, 10],
      );
      const tcp = entry.createDownloader({ protocol: "tcp" });
      for (const { number, offset, length, tcpAddr, quicAddr } of pieces) {
        assert.equal(tcpAddr, `127.0.0.1:${server.addresses.tcp?.port}`);
        assert.equal(quicAddr, undefined);
        const piece = await tcp.downloadPiece({ addr: tcpAddr, hostId, taskId, number });
        assert.equal(
          Buffer.compare(await piece.bytes(), content.subarray(offset, offset + length)),
          0,
        );
      }
      await tcp.close();
    };
    await withPeers(storeOf(), use, everywhere);
  });

  it("one sends a whole task with pieces of any length", testOptions, async () => {
    for (const pieceLength of [MEBI, 4 * MEBI, 64 * MEBI]) {
      await withPeers(storeOf(pieceLength), async ({ downloader, addr, errors }) => {
        const task = await downloader.downloadTask(addr, source);
        assert.equal(task.contentLength, content.length);
        assert.match(task.hostId, /^127\.0\.0\.1-vortex-peer$/);
        let bytes = 0;
        for await (const piece of task) {
          const expected = content.subarray(piece.offset, piece.offset + piece.length);
          assert.equal(Buffer.compare(piece.content, expected), 0);
          bytes += piece.length;
        }
        assert.equal(bytes, content.length);
        assert.equal(downloader.connections()[0]?.activeRequests, 0);
        assert.deepEqual(errors, []);
      });
    }
  });

  it("one connection carries several tasks and single pieces at once", testOptions, async () => {
    await withPeers(storeOf(), async ({ downloader, addr }) => {
      const tasks = Array.from({ length: 4 }, async () => {
        const pieces = await all(await downloader.downloadTask(addr, source));
        assert.equal(
          Buffer.compare(Buffer.concat(pieces.map((piece) => piece.content)), content),
          0,
        );
      });
      const syncs = Array.from({ length: 60 }, async () => {
        assert.equal((await all(downloader.syncPieces(addr, { taskId, hostId }))).length, 11);
      });
      await Promise.all([...tasks, ...syncs]);
      assert.equal(downloader.connections().length, 1);
    });
  });

  it("a growing task is announced and sent as its pieces arrive", testOptions, async () => {
    const { store, put } = growingStore();
    put(7);
    await withPeers(store, async ({ downloader, addr }) => {
      const announced = downloader.syncPieces(addr, { taskId, hostId });
      const sent = (await downloader.downloadTask(addr, source))[Symbol.asyncIterator]();
      assert.equal((await announced.next()).value?.number, 7);
      assert.equal((await sent.next()).value?.number, 7);
      for (let number = 40; number >= 0; number--) {
        if (number === 7) continue;
        const both = Promise.all([announced.next(), sent.next()]);
        put(number);
        const [announcement, piece] = await both;
        assert.equal(announcement.value?.number, number);
        const expected = content.subarray(number * MEBI, (number + 1) * MEBI);
        assert.equal(Buffer.compare(piece.value?.content ?? new Uint8Array(0), expected), 0);
      }
      assert.equal((await announced.next()).done, true);
      assert.equal((await sent.next()).done, true);
    });
  });

  it(
    "a client that cancels, aborts or closes releases the server, and other calls continue",
    testOptions,
    async () => {
      const { store, put, unwatched } = growingStore();
      put(0);
      await withPeers(store, async ({ downloader, addr, errors }) => {
        for (const call of ["sync", "download"] as const) {
          const controller = new AbortController();
          const { signal } = controller;
          const open = async (): Promise<AsyncIterator<{ readonly number: number }>> =>
            call === "sync"
              ? downloader.syncPieces(addr, { taskId, hostId }, { signal })
              : (await downloader.downloadTask(addr, source, { signal }))[Symbol.asyncIterator]();
          const left = await open();
          assert.equal((await left.next()).value?.number, 0);
          await left.return?.();
          await unwatched();
          const aborted = await open();
          await aborted.next();
          const waiting = assertRejects(Promise.resolve(aborted.next()), "Aborted");
          controller.abort();
          await waiting;
          await unwatched();
          assert.equal(downloader.connections()[0]?.activeRequests, 0);
        }
        assert.equal(downloader.connections().length, 1);
        const closed = downloader.syncPieces(addr, { taskId, hostId });
        await closed.next();
        const waiting = assertRejects(closed.next(), "Closed");
        await downloader.close();
        await waiting;
        await unwatched();
        assert.deepEqual(errors, []);
      });
    },
  );

  it(
    "a server that closes during an answer fails it with a code to retry",
    testOptions,
    async () => {
      const { store, put } = growingStore();
      put(0);
      await withPeers(store, async ({ server, downloader, addr }) => {
        const announced = downloader.syncPieces(addr, { taskId, hostId });
        const sent = (await downloader.downloadTask(addr, source))[Symbol.asyncIterator]();
        await Promise.all([announced.next(), sent.next()]);
        const waiting = [announced.next(), sent.next()].map(rejectionOf);
        await server.close({ grace: 0 });
        const [announcing, sending] = await Promise.all(waiting);
        // The status UNAVAILABLE of the announcements may still arrive.
        assert.match(announcing?.code ?? "", /^(RemoteBusy|ConnectionLost)$/);
        assert.equal(sending?.code, "ConnectionLost");
      });
    },
  );

  it(
    "a paused reader applies backpressure to the server, and resumes where it paused",
    testOptions,
    async () => {
      const pieceLength = 256 * 1024;
      const store = storeOf(pieceLength);
      let read = 0;
      let noted = (): void => {};
      const counting: PieceStore = {
        getTask: (id) => store.getTask(id),
        async getPiece(request) {
          read++;
          noted();
          return store.getPiece(request);
        },
      };
      await withPeers(counting, async ({ downloader, addr }) => {
        const pieces = (await downloader.downloadTask(addr, source))[Symbol.asyncIterator]();
        await pieces.next();
        // Waits until the server stops reading its store: all windows and buffers are full.
        for (let before = -1; before !== read; ) {
          before = read;
          await new Promise<void>((resolve) => {
            const timer = setTimeout(resolve, 500);
            noted = () => timer.refresh?.();
          });
        }
        assert.ok(
          read * pieceLength < 32 * MEBI,
          `the server read ${read} pieces for a paused reader`,
        );
        let left = Math.ceil(content.length / pieceLength) - 1;
        for (let next = await pieces.next(); !next.done; next = await pieces.next()) left--;
        assert.equal(left, 0);
      });
    },
  );

  it("an unread answer ends by the server's stall timeout", testOptions, async () => {
    const { store, put, unwatched } = growingStore();
    for (let number = 0; number <= 40; number++) put(number);
    const use = async ({ downloader, addr }: Peers): Promise<void> => {
      const task = await downloader.downloadTask(addr, source);
      const pieces = task[Symbol.asyncIterator]();
      await pieces.next();
      await unwatched();
      const rest = async (): Promise<void> => {
        for (let next = await pieces.next(); !next.done; next = await pieces.next());
      };
      await assertRejects(rest(), "StreamReset");
    };
    await withPeers(store, use, { server: { stallTimeout: 3000 } });
  });
});

describe("a trace over gRPC", () => {
  it("continues in the spans of the server", testOptions, async () => {
    const spans = new Map<
      string,
      { readonly kind: number; readonly id: string; readonly parent: string | undefined }
    >();
    const telemetry = openTelemetry(
      tracingApi((name, span) => spans.set(`${name} ${span.kind}`, span)),
    );
    const options = { server: { telemetry }, client: { telemetry } };
    await withPeers(
      storeOf(),
      async ({ downloader, addr }) => {
        await (await downloader.downloadPiece({ addr, hostId, taskId, number: 0 })).bytes();
        await downloader.statTask(addr, taskId);
        await all(downloader.syncPieces(addr, { taskId, hostId }));
        await all(await downloader.downloadTask(addr, source));
      },
      options,
    );
    for (const [asking, answering] of [
      ["download_piece", "download_piece"],
      ["stat_task", "stat_local_task"],
      ["sync_pieces", "sync_pieces"],
      ["download_task", "download_task"],
    ]) {
      const asked = spans.get(`${asking} ${CLIENT}`);
      assert.ok(asked, `no span of the client: ${asking}`);
      assert.equal(spans.get(`${answering} ${SERVER}`)?.parent, asked.id, answering);
    }
  });
});

/** Values of OpenTelemetry's `SpanKind`. */
const SERVER = 1;
const CLIENT = 2;

/** Creates a minimal OpenTelemetry API that propagates traces with W3C Trace Context. */
function tracingApi(
  onSpan: (name: string, span: { kind: number; id: string; parent: string | undefined }) => void,
): OpenTelemetryApi {
  class Context {
    readonly id: string | undefined;
    constructor(id?: string) {
      this.id = id;
    }
    getValue(): unknown {
      return this.id;
    }
  }
  const idOf = (context: unknown): string | undefined =>
    context instanceof Context ? context.id : undefined;
  const ids = new Map<unknown, string>();
  const instrument = { add: () => {}, record: () => {} };
  return {
    trace: {
      getTracer: () => ({
        startSpan(name, { kind }, context) {
          const span = { setAttribute: () => {}, setStatus: () => {}, end: () => {} };
          const id = (ids.size + 1).toString(16).padStart(16, "0");
          ids.set(span, id);
          onSpan(name, { kind, id, parent: idOf(context) });
          return span;
        },
      }),
      setSpan: (_context, span) => new Context(ids.get(span)),
    },
    metrics: {
      getMeter: () => ({
        createCounter: () => instrument,
        createUpDownCounter: () => instrument,
        createHistogram: () => instrument,
      }),
    },
    context: { active: () => new Context(), with: (_context, work) => work() },
    propagation: {
      inject(context, carrier) {
        carrier.traceparent = `00-${"1".repeat(32)}-${idOf(context)}-01`;
      },
      extract: (_context, headers, getter) =>
        new Context(getter.get(headers, "traceparent")?.split("-")[2]),
    },
  };
}

describe("a session without streams", () => {
  it("is closed by the server after ten minutes, and not before", testOptions, async () => {
    const clock = new FakeClock();
    // A long request timeout also avoids keep-alive PINGs, whose answer takes real time.
    const settings = serverSettings({ requestTimeout: 3_600_000 }, fakeRuntime(clock));
    const server = await grpcServer({ host: "127.0.0.1", port: 0 }, storeOf(), settings);
    const { signal } = new AbortController();
    const connection = await grpcBinding().dial(server.address, { maxMessageLength: MEBI, signal });
    try {
      await clock.advance(599_000);
      assert.equal(connection.open, true);
      // A call restarts the idle time.
      const client = createClient(
        DfdaemonUpload,
        connection.transport(() => {}),
      );
      await client.statLocalTask({ taskId });
      while (clock.pending === 0) await settle();
      await clock.advance(599_000);
      assert.equal(connection.open, true);
      await clock.advance(1000);
      await connection.closed;
      assert.equal(connection.open, false);
    } finally {
      await connection.close();
      await server.close({ grace: 0 });
    }
  });
});

describe("tasks over gRPC, from hostile servers", () => {
  /** Starts an HTTP/2 server that answers every request with `answer`. */
  async function hostile(
    answer: (stream: ServerHttp2Stream, path: string) => void,
    use: (addr: string) => Promise<void>,
  ): Promise<void> {
    const sessions = new Set<ServerHttp2Session>();
    const server = createServer();
    server.on("session", (session) => {
      session.on("error", () => {});
      sessions.add(session);
    });
    server.on("stream", (stream, headers) => {
      stream.on("error", () => {});
      stream.resume();
      answer(stream, String(headers[":path"]));
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const { port } = server.address() as AddressInfo;
    try {
      await use(formatAddress({ host: "127.0.0.1", port }));
    } finally {
      for (const session of sessions) session.destroy();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    }
  }

  const head = { ":status": 200, "content-type": "application/grpc" };
  const cases: readonly [string, (stream: ServerHttp2Stream) => void, ErrorCode][] = [
    ["sends nothing", () => {}, "Stalled"],
    ["sends only headers", (stream) => stream.respond(head), "Stalled"],
    [
      "stalls inside a message prefix",
      (stream) => {
        stream.respond(head);
        stream.write(Uint8Array.of(0, 0, 0));
      },
      "Stalled",
    ],
    [
      "stalls inside a message",
      (stream) => {
        stream.respond(head);
        stream.write(Uint8Array.of(0, 0, 0, 0, 100, 1, 2, 3));
      },
      "Stalled",
    ],
    [
      "announces a message of 4 GiB",
      (stream) => {
        stream.respond(head);
        stream.write(Uint8Array.of(0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3));
      },
      "LimitExceeded",
    ],
    [
      "ends without a status",
      (stream) => {
        stream.respond(head);
        stream.end();
      },
      "ProtocolViolation",
    ],
  ];
  it("an origin error of dfdaemon causes OriginFailed with its status", testOptions, async () => {
    const backend = { message: "no such object", header: { Server: "s3" }, status_code: 404 };
    const status = {
      "grpc-status": "13",
      "grpc-message": "backend error",
      "grpc-status-details-bin": btoa(JSON.stringify(backend)),
    };
    const ids = { hostId: "h", taskId, peerId: "p" };
    const value = { contentLength: BigInt(content.length) };
    const response = { case: "downloadTaskStartedResponse", value } as const;
    const started = encoded(DownloadTaskResponseSchema, { ...ids, response });
    const answers: readonly ((stream: ServerHttp2Stream) => void)[] = [
      (stream) => stream.respond({ ...head, ...status }, { endStream: true }),
      (stream) => {
        stream.on("wantTrailers", () => stream.sendTrailers(status));
        stream.respond(head, { waitForTrailers: true });
        stream.end(started);
      },
    ];
    for (const answer of answers) {
      await hostile(answer, async (addr) => {
        const settings = downloaderSettings({}, runtime);
        await using downloader = new GrpcDownloader(async () => grpcBinding(), settings);
        const failed = downloader.downloadTask(addr, source).then(all);
        const error = await assertRejects(failed, "OriginFailed");
        const origin = { status: 404, headers: { server: "s3" }, message: "no such object" };
        assert.deepEqual(error.origin, origin);
        assert.deepEqual(JSON.parse(JSON.stringify(error)).origin, origin);
        assert.equal(error.kind, "remote");
        assert.equal(error.addr, addr);
        assert.match(error.message, /status 404: no such object$/);
      });
    }
  });

  for (const [habit, isStarted] of [
    ["whose response is empty", false],
    ["whose response has no piece", true],
  ] as const)
    it(`a task that dfdaemon has already is fetched over TCP (${habit})`, testOptions, async () => {
      // dfdaemon 1.4.8 to 1.5.10 send an empty response to DownloadTask, and have no DownloadPiece.
      const server = await entry.startServer({
        store: storeOf(),
        host: "127.0.0.1",
        tcp: { port: 0 },
      });
      const tcpPort = server.addresses.tcp?.port;
      const contentLength = BigInt(content.length);
      const pieceLength = BigInt(4 * MEBI);
      const ids = { hostId: "h", taskId, peerId: "p" };
      const { DownloadTask, StatLocalTask, SyncPieces } = {
        DownloadTask: isStarted
          ? [
              encoded(DownloadTaskResponseSchema, {
                ...ids,
                response: { case: "downloadTaskStartedResponse", value: { contentLength } },
              }),
            ]
          : [],
        StatLocalTask: [
          encoded(StatLocalTaskResponseSchema, { taskId, contentLength, pieceLength }),
        ],
        SyncPieces: Array.from({ length: 11 }, (_, number) => {
          const offset = BigInt(number) * pieceLength;
          const left = contentLength - offset;
          const length = left < pieceLength ? left : pieceLength;
          return encoded(SyncPiecesResponseSchema, {
            number,
            offset,
            length,
            ip: "127.0.0.1",
            ...(tcpPort !== undefined && { tcpPort }),
          });
        }),
      };
      const served: Readonly<Record<string, readonly Uint8Array[]>> = {
        DownloadTask,
        StatLocalTask,
        SyncPieces,
      };
      const answer = (stream: ServerHttp2Stream, path: string): void => {
        const messages = served[path.slice(path.lastIndexOf("/") + 1)];
        if (messages === undefined) {
          stream.respond({ ...head, "grpc-status": "12" }, { endStream: true });
          return;
        }
        stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
        stream.respond(head, { waitForTrailers: true });
        for (const message of messages) stream.write(message);
        stream.end();
      };
      try {
        await hostile(answer, async (addr) => {
          const settings = downloaderSettings({}, runtime);
          await using downloader = new GrpcDownloader(async () => grpcBinding(), settings);
          const task = await downloader.downloadTask(addr, source);
          assert.equal(task.contentLength, isStarted ? content.length : undefined);
          assert.equal(task.taskId, taskId);
          const pieces = await all(task);
          assert.equal(pieces.length, 11);
          assert.ok(pieces.every((piece) => piece.digest.startsWith("crc32:")));
          assert.deepEqual(
            Buffer.concat(pieces.map((piece) => piece.content)),
            Buffer.from(content),
          );
          // The connection is free again.
          assert.equal(downloader.connections()[0]?.activeRequests, 0);
          const pinned = { tls: { fingerprints: ["ab".repeat(32)] } };
          assert.equal(grpcBinding(pinned).tcp, undefined);
          const { dial } = grpcBinding();
          await using grpcOnly = new GrpcDownloader(async () => ({ dial }), settings);
          const refused = grpcOnly.downloadTask(addr, source).then(all);
          await assertRejects(refused, "RemoteUnimplemented");
        });
      } finally {
        await server.close({ grace: 0 });
      }
    });

  it("unreadable status details leave the status as it is", testOptions, async () => {
    for (const details of ["AAAA", "e30", btoa("{"), "%"]) {
      const status = { "grpc-status": "5", "grpc-status-details-bin": details };
      await hostile(
        (stream) => stream.respond({ ...head, ...status }, { endStream: true }),
        async (addr) => {
          const settings = downloaderSettings({}, runtime);
          await using downloader = new GrpcDownloader(async () => grpcBinding(), settings);
          await assertRejects(downloader.downloadTask(addr, source), "NotFound");
        },
      );
    }
  });

  for (const [what, answer, code] of cases) {
    it(`a server that ${what} causes ${code}`, testOptions, async () => {
      await hostile(answer, async (addr) => {
        const settings = downloaderSettings({ stallTimeout: 300 }, runtime);
        const downloader = new GrpcDownloader(async () => grpcBinding(), settings);
        await assertRejects(all(downloader.syncPieces(addr, { taskId, hostId })), code);
        await assertRejects(downloader.downloadTask(addr, source), code);
        assert.equal(downloader.connections()[0]?.activeRequests ?? 0, 0);
        await downloader.close();
      });
    });
  }
});

/** Encodes a message with its gRPC header. */
function encoded<Desc extends DescMessage>(schema: Desc, init: MessageInitShape<Desc>): Uint8Array {
  const message = toBinary(schema, create(schema, init));
  const framed = new Uint8Array(5 + message.length);
  new DataView(framed.buffer).setUint32(1, message.length);
  framed.set(message, 5);
  return framed;
}

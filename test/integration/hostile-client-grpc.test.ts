/**
 * Attacks by HTTP/2 and gRPC clients that violate the protocols, with an honest client beside them.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect as connectSocket } from "node:net";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { type GrpcServer, grpcServer } from "../../adapters/grpc/server.ts";
import { connectionAttacks, handshakeAttacks } from "../../bench/hostile/connections.ts";
import { http2Attacks, requestFor, requestHeaders } from "../../bench/hostile/http2.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import type { VortexError } from "../../src/errors.ts";
import { SyncPiecesRequestSchema } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { rejectionOf } from "../support/failures.ts";
import { FakeClock, fakeRuntime, settle } from "../support/fake-clock.ts";
import { trickyIds } from "../support/hostile.ts";
import { Flag, Frame, frame, onEachFrame, PREFACE, uint32s } from "../support/hostile-http2.ts";
import { seededBytes, seededRandom } from "../support/random.ts";

const testOptions = { timeout: 120_000 };
const taskId = "ab".repeat(32);
const longTaskId = "cd".repeat(32);
const content = seededBytes(4, 20_000);
const growingTaskId = "ef".repeat(32);
const store = new MemoryPieceStore();
store.startTask(growingTaskId, 20_000);
store.putTask(taskId, content, { pieceLength: content.length });
store.putTask(longTaskId, new Uint8Array(4 * 1024 * 1024), { pieceLength: 4 * 1024 * 1024 });

/** Number of tries of each attack. The campaign, `npm run hostile`, makes many. */
const TRIES: Readonly<Record<string, number>> = { request: 60, connection: 12 };
const MAX_CONNECTIONS = 16;

for (const secure of [false, true]) {
  describe(`a hostile client, over gRPC${secure ? " with TLS" : ""}`, () => {
    const errors: VortexError[] = [];
    let server: GrpcServer;
    let honest: GrpcDownloader;
    before(async () => {
      const settings = serverSettings(
        {
          // As in the campaign. The honest client also meets these timeouts on a busy machine.
          requestTimeout: 1000,
          stallTimeout: 1000,
          maxConnections: MAX_CONNECTIONS,
          onError: (error) => errors.push(error),
        },
        portableRuntime,
      );
      server = await grpcServer(
        { host: "127.0.0.1", port: 0 },
        store,
        settings,
        secure ? { tls: {} } : {},
      );
      const pinned = { tls: { fingerprints: [server.fingerprint ?? ""] } };
      honest = new GrpcDownloader(
        async () => grpcBinding(secure ? pinned : {}),
        downloaderSettings({}, portableRuntime),
      );
      // Connects before the attackers occupy the connection slots.
      await fetched();
    });
    after(async () => {
      await honest.close();
      await server.close({ grace: 0 });
    });

    async function fetched(id: string = taskId): Promise<Uint8Array> {
      const request = { addr: formatAddress(server.address), hostId: "h", taskId: id, number: 0 };
      return (await honest.downloadPiece(request)).bytes();
    }

    for (const attack of [
      ...connectionAttacks("grpc"),
      ...http2Attacks,
      ...(secure ? handshakeAttacks : []),
    ]) {
      it(
        `${attack.name}: every try ends, and an honest client is served meanwhile`,
        testOptions,
        async () => {
          const target = {
            ...server.address,
            taskId,
            longTaskId,
            maxConnections: MAX_CONNECTIONS,
            secure,
          };
          let over = false;
          const attacking = attack
            .run(target, TRIES[attack.unit] ?? 1, seededRandom(9))
            .finally(() => {
              over = true;
            });
          // At least one piece during the attack, and one after it.
          do assert.deepEqual(await fetched(), content);
          while (!over);
          assert.deepEqual(await fetched(), content);
          for (const outcome of Object.keys(await attacking))
            assert.doesNotMatch(outcome, /^wrong/);
          assert.equal(honest.connections().length, 1);
          assert.deepEqual(errors, []);
        },
      );
    }

    for (const [what, id] of trickyIds) {
      it(`${what} for a task id: NotFound`, testOptions, async () => {
        assert.equal((await rejectionOf(fetched(id))).code, "NotFound");
        assert.deepEqual(errors, []);
      });
    }
  });
}

it("a request that arrives together with its reset is not answered", testOptions, async () => {
  let asked = 0;
  const counting: PieceStore = {
    getTask: async () => undefined,
    getPiece: (request) => {
      asked++;
      return store.getPiece(request);
    },
  };
  const settings = serverSettings({}, portableRuntime);
  const server = await grpcServer({ host: "127.0.0.1", port: 0 }, counting, settings);
  const socket = connectSocket(server.address);
  const request = (stream: number): Uint8Array =>
    Buffer.concat([
      requestHeaders(stream),
      frame(Frame.Data, Flag.EndStream, stream, requestFor(taskId, 0)),
    ]);
  const last = 101;
  const answered = new Promise<void>((resolve) => {
    onEachFrame(socket, 0, (_type, flags, stream) => {
      if (stream === last && (flags & Flag.EndStream) !== 0) resolve();
    });
  });
  const all = [PREFACE, frame(Frame.Settings, 0, 0)];
  for (let stream = 1; stream < last; stream += 2)
    all.push(request(stream), frame(Frame.Reset, 0, stream, uint32s(8)));
  all.push(request(last));
  try {
    // One write, so that the server gets all of it in one read.
    socket.write(Buffer.concat(all));
    await answered;
    assert.equal(asked, 1);
  } finally {
    socket.destroy();
    await server.close({ grace: 0 });
  }
});

for (const [what, fields, answered] of [
  [
    "a deadline beyond the range of timers, which is ignored",
    { "grpc-timeout": "99999999H" },
    "content",
  ],
  ["a deadline just beyond the range of timers", { "grpc-timeout": "2147484S" }, "content"],
  ["a negative deadline", { "grpc-timeout": "-1S" }, "status"],
  ["JSON, which cannot carry content", { "content-type": "application/grpc+json" }, "415"],
  ["gRPC-Web", { "content-type": "application/grpc-web+proto" }, "415"],
  ["the Connect protocol", { "content-type": "application/proto" }, "415"],
  ["a method other than POST", { ":method": "GET" }, "405"],
  ["compression", { "grpc-encoding": "gzip" }, "status"],
] as const) {
  it(`a request with ${what}: ${answered}, and no warning`, testOptions, async () => {
    const warnings: unknown[] = [];
    const onWarning = (warning: unknown): number => warnings.push(warning);
    process.on("warning", onWarning);
    const settings = serverSettings({}, portableRuntime);
    const server = await grpcServer({ host: "127.0.0.1", port: 0 }, delayedStore(store), settings);
    const session = connectHttp2(`http://${formatAddress(server.address)}`);
    const stream = session.request(
      {
        ":method": "POST",
        ":path": "/dfdaemon.v2.DfdaemonUpload/DownloadPiece",
        "content-type": "application/grpc",
        te: "trailers",
        ...fields,
      },
      { endStream: false },
    );
    let status: unknown;
    let length = 0;
    stream.once("response", (headers) => {
      status = headers[":status"];
    });
    stream.on("data", (chunk: Uint8Array) => {
      length += chunk.length;
    });
    stream.end(requestFor(taskId, 0));
    await once(stream, "close");
    session.destroy();
    await server.close({ grace: 0 });
    process.off("warning", onWarning);
    assert.equal(status, Number(answered) || 200);
    assert.equal(length > content.length, answered === "content");
    assert.deepEqual(warnings, []);
  });
}

/** Delays a store, so that a timer that overflows to 1 ms would fire before its answer. */
function delayedStore(quick: PieceStore): PieceStore {
  return {
    getTask: (id) => quick.getTask(id),
    async getPiece(request, options) {
      await pause(20);
      options?.signal?.throwIfAborted();
      return quick.getPiece(request);
    },
  };
}

/** Bytes that a client sends before it falls silent, each with a description. */
const silences: readonly (readonly [what: string, said: Uint8Array])[] = [
  ["no byte", new Uint8Array(0)],
  ["a part of the connection preface", PREFACE.subarray(0, 12)],
  ["the connection preface without SETTINGS", PREFACE],
  [
    "a frame that violates HTTP/2",
    Buffer.concat([
      PREFACE,
      frame(Frame.Settings, 0, 0),
      frame(Frame.WindowUpdate, 0, 1, new Uint8Array(95)),
    ]),
  ],
];

for (const [what, said] of silences) {
  it(
    `a client that does not answer a PING is disconnected, after ${what}`,
    testOptions,
    async () => {
      await withClock(async (server, clock) => {
        const socket = connectSocket(server.address);
        socket.on("error", () => {});
        socket.resume();
        const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
        socket.write(said);
        // After a violation, the runtime may close the connection itself.
        await clock.advanceUntil(closed, 60_000);
      });
    },
  );
}

it(
  "a client that waits for announcements and answers no PING is disconnected",
  testOptions,
  async () => {
    await withClock(async (server, clock) => {
      const socket = connectSocket(server.address);
      socket.on("error", () => {});
      const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
      const answered = new Promise<void>((resolve) => {
        onEachFrame(socket, 0, (type) => {
          if (type === Frame.Headers) resolve();
        });
      });
      const request = frame(Frame.Data, Flag.EndStream, 1, syncRequestFor(growingTaskId));
      const headers = requestHeaders(1, "SyncPieces");
      socket.write(Buffer.concat([PREFACE, frame(Frame.Settings, 0, 0), headers, request]));
      await answered;
      await clock.advanceUntil(closed, 60_000);
    });
  },
);

it(
  "a client that waits for announcements and answers PINGs stays connected",
  testOptions,
  async () => {
    await withClock(async (server, clock) => {
      const session = connectHttp2(`http://${formatAddress(server.address)}`);
      const stream = session.request({
        ":method": "POST",
        ":path": "/dfdaemon.v2.DfdaemonUpload/SyncPieces",
        "content-type": "application/grpc",
        "grpc-timeout": "10S",
      });
      // The session is destroyed below.
      stream.on("error", () => {});
      session.on("error", () => {});
      const closed = new Promise<void>((resolve) => stream.once("close", () => resolve()));
      stream.end(syncRequestFor(growingTaskId));
      const [headers] = await once(stream, "response");
      assert.equal(headers["vortex-peer"], "1");
      for (let turn = 0; turn < 150; turn++) {
        await clock.advance(5_000);
        // After the second PING of the client, the server has the answers to its earlier PINGs.
        for (let times = 0; times < 2; times++)
          await new Promise<void>((resolve) => void session.ping(() => resolve()));
        await settle();
      }
      assert.equal(stream.closed, false);
      session.destroy();
      await closed;
    });
  },
);

it("an idle client that answers PINGs is not disconnected", testOptions, async () => {
  await withClock(async (server, clock) => {
    const idle = connectHttp2(`http://${formatAddress(server.address)}`);
    await once(idle, "remoteSettings");
    for (let turn = 0; turn < 9; turn++) {
      await clock.advance(5_000);
      // After the second PING of the client, the server has the answers to its earlier PINGs.
      for (let times = 0; times < 2; times++)
        await new Promise<void>((resolve) => void idle.ping(() => resolve()));
      await settle();
    }
    assert.equal(idle.destroyed, false);
    idle.destroy();
  });
});

/** Encodes a request for SyncPieces, for all pieces of a task. */
function syncRequestFor(id: string): Uint8Array {
  const schema = SyncPiecesRequestSchema;
  return encodeEnvelope(0, toBinary(schema, create(schema, { taskId: id })));
}

/** Runs `use` with a server on a fake clock. Afterwards, asserts that no timer is left. */
async function withClock(
  use: (server: GrpcServer, clock: FakeClock) => Promise<void>,
): Promise<void> {
  const clock = new FakeClock();
  const settings = serverSettings({ requestTimeout: 5_000 }, fakeRuntime(clock));
  const server = await grpcServer({ host: "127.0.0.1", port: 0 }, store, settings);
  await use(server, clock);
  await server.close({ grace: 0 });
  while (clock.pending > 0) await settle();
}

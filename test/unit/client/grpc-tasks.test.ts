import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type ServiceImpl,
} from "@connectrpc/connect";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import type { TransferOptions } from "../../../src/client/downloader.ts";
import { GrpcDirectory } from "../../../src/client/grpc/directory.ts";
import {
  type DownloadTaskOptions,
  GrpcDownloader,
  type SyncRequest,
  type TaskIdentity,
} from "../../../src/client/grpc/downloader.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { type ErrorCode, VortexError } from "../../../src/errors.ts";
import type { PieceSchema, TaskSchema } from "../../../src/gen/common/v2/common_pb.ts";
import {
  DfdaemonUpload,
  type DownloadTaskResponseSchema,
  type SyncPiecesResponseSchema,
} from "../../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import {
  persistentTaskId,
  standardTaskId,
  taskIdOfContent,
  taskIdOfUrl,
} from "../../../src/ids.ts";
import { type PieceKind, pieceKinds } from "../../../src/piece.ts";
import { type ServerOptions, serverSettings } from "../../../src/server/admission/upload.ts";
import type { AdvertisedHost } from "../../../src/server/grpc/advertised.ts";
import { grpcDispatcher } from "../../../src/server/grpc/dispatcher.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import type { PieceStore, StoredTask } from "../../../src/store/store.ts";
import { assertRejects } from "../../support/failures.ts";
import { FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import {
  MemoryGrpcBinding,
  MemoryGrpcConnection,
  type Peer,
  peerServing,
  scriptedPeer,
} from "../../support/grpc.ts";
import { seededBytes } from "../../support/random.ts";

const addr = "127.0.0.1:4000";
const hostId = "10.0.0.1-host";
const source = {
  url: "https://example.com/file?Signature=1",
  filteredQueryParams: ["Signature"],
  tag: "t",
};
const taskId = taskIdOfUrl(source);
const content = seededBytes(3, 12_000);
const sha256 = digestOf("sha256", content, portableHashers);

type PieceInit = Exclude<MessageInitShape<typeof PieceSchema>, { $typeName: string }>;
type SyncInit = MessageInitShape<typeof SyncPiecesResponseSchema>;
type TaskInit = MessageInitShape<typeof DownloadTaskResponseSchema>;

/** Store with the content as a task in pieces of 5,000 bytes. */
function storeOf(kind: PieceKind = "standard", id: string = taskId): MemoryPieceStore {
  const store = new MemoryPieceStore();
  store.putTask(id, content, {
    kind,
    pieceLength: 5000,
    createdAtSeconds: 1_700_000_000n,
    digest: sha256,
  });
  return store;
}

/** Store with the same task, growing and still without pieces. */
function growingStore(kind: PieceKind = "standard") {
  const store = new MemoryPieceStore();
  const growing = store.startTask(taskId, content.length, { kind, pieceLength: 5000 });
  const put = (number: number): void =>
    growing.putPiece(number, content.subarray(number * 5000, (number + 1) * 5000));
  return { store, growing, put };
}

function peerOf(store: PieceStore, options: ServerOptions = {}, serving: AdvertisedHost = {}) {
  const errors: VortexError[] = [];
  const onError = (error: VortexError): void => {
    errors.push(error);
  };
  const settings = serverSettings({ ...options, onError }, fakeRuntime());
  const methods = grpcDispatcher(store, settings, { advertised: serving });
  return { methods, peer: peerServing(methods), errors };
}

/** Downloader connected to `peer`, on a stopped clock. */
function downloaderOf(peer: Peer, options: TransferOptions = {}) {
  const clock = new FakeClock();
  const binding = new MemoryGrpcBinding(peer);
  const downloader = new GrpcDownloader(
    async () => binding,
    downloaderSettings(options, fakeRuntime(clock)),
  );
  return { downloader, clock, binding };
}

function clientOf(peer: Peer): Client<typeof DfdaemonUpload> {
  const connection = new MemoryGrpcConnection(peer, 1 << 20);
  return createClient(
    DfdaemonUpload,
    connection.transport(() => {}),
  );
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

/** Asserts that a call has left no streams, timers or connections in use. */
async function assertClean({ downloader, clock }: ReturnType<typeof downloaderOf>): Promise<void> {
  await settle();
  assert.equal(downloader.connections()[0]?.activeRequests ?? 0, 0);
  await downloader.close();
  assert.equal(clock.pending, 0);
}

describe("statTask", () => {
  it("returns lengths and digest of the task from StatLocalTask", async () => {
    const pair = downloaderOf(peerOf(storeOf()).peer);
    const stat = await pair.downloader.statTask(addr, taskId);
    assert.deepEqual(stat, { contentLength: 12_000, pieceLength: 5000, digest: sha256 });
    await assertRejects(pair.downloader.statTask(addr, "f".repeat(64)), "NotFound");
    await assertClean(pair);
  });

  for (const kind of pieceKinds) {
    it(`returns the lengths of a ${kind} task`, async () => {
      const pair = downloaderOf(peerOf(storeOf(kind)).peer);
      const stat = await pair.downloader.statTask(addr, taskId, { kind });
      assert.equal(stat.pieceLength, 5000);
      await assertClean(pair);
    });
  }

  /** Result of statTask with a peer that serves only `methods`. */
  async function stated(
    methods: Partial<ServiceImpl<typeof DfdaemonUpload>>,
    kind: PieceKind = "standard",
  ) {
    const pair = downloaderOf(scriptedPeer(methods));
    try {
      return await pair.downloader.statTask(addr, taskId, { kind });
    } finally {
      await assertClean(pair);
    }
  }

  const notHere = (): never => {
    throw new ConnectError("not here", Code.NotFound);
  };

  it("falls back to StatTask, and derives the piece length from the pieces", async () => {
    const task: MessageInitShape<typeof TaskSchema> = {
      contentLength: 12_000n,
      pieceCount: 3,
      digest: sha256,
    };
    const piece = (number: number) => ({ number, offset: BigInt(number * 5000), length: 5000n });
    const expected = { contentLength: 12_000, pieceLength: 5000, digest: sha256 };
    assert.deepEqual(await stated({ statTask: () => ({ ...task, pieces: [piece(0)] }) }), expected);
    assert.deepEqual(await stated({ statTask: () => ({ ...task, pieces: [piece(1)] }) }), expected);
    const usual = { contentLength: 9_000_000n, pieceCount: 3 };
    assert.deepEqual(await stated({ statTask: () => usual }), {
      contentLength: 9_000_000,
      pieceLength: 4_194_304,
    });
    await assertRejects(stated({ statTask: () => ({ ...task, pieces: [] }) }), "ProtocolViolation");
    await assertRejects(
      stated({ statTask: () => ({ contentLength: (1n << 64n) - 1n }) }),
      "NotFound",
    );
    await assertRejects(
      stated({ statTask: () => ({ contentLength: 1n << 60n, pieceCount: 1 }) }),
      "ProtocolViolation",
    );
    await assertRejects(stated({ statTask: notHere }), "NotFound");
    await assertRejects(stated({}), "RemoteUnimplemented");
  });

  it("normalizes digests, and drops malformed or unsupported ones", async () => {
    const told = async (digest: string): Promise<string | undefined> =>
      (await stated({ statTask: () => ({ contentLength: 9_000_000n, pieceCount: 3, digest }) }))
        .digest;
    assert.equal(await told(`sha256:${sha256.slice(7).toUpperCase()}`), sha256);
    for (const odd of [
      "",
      "blake3:00",
      "md5:0",
      "sha256:0",
      "crc32:-1",
      "crc32: 1",
      "crc32:01",
      "crc32:0x1",
      "crc32:+1",
    ]) {
      assert.equal(await told(odd), undefined, odd);
    }
    assert.equal(await told(`${sha256}\nhas    all pieces\u001b[2J`), undefined);
  });

  it("uses the separate call for persistent tasks, like dfdaemon", async () => {
    const persistent = { contentLength: 9_000_000n, pieceCount: 3 };
    const answers = { statLocalTask: notHere, statPersistentTask: () => persistent };
    assert.deepEqual(await stated(answers, "persistent"), {
      contentLength: 9_000_000,
      pieceLength: 4_194_304,
    });
    const cached = { contentLength: 12_000n, pieceCount: 3, pieceLength: 5000n };
    const cacheAnswers = { statLocalTask: notHere, statPersistentCacheTask: () => cached };
    assert.deepEqual(await stated(cacheAnswers, "persistent-cache"), {
      contentLength: 12_000,
      pieceLength: 5000,
    });
    await assertRejects(stated(answers, "standard"), "NotFound");
    await assertRejects(stated(answers, "cache"), "NotFound");
  });
});

describe("SyncPieces of a store", () => {
  for (const kind of pieceKinds) {
    it(`announces the pieces of a ${kind} task, with addresses if the call has them`, async () => {
      const serving = { tcpPort: 4005, quicPort: 4006, advertisedIp: "10.1.2.3" };
      const pair = downloaderOf(peerOf(storeOf(kind), {}, serving).peer);
      const pieces = await all(pair.downloader.syncPieces(addr, { taskId, hostId, kind }));
      const addresses = { tcpAddr: "10.1.2.3:4005", quicAddr: "10.1.2.3:4006" };
      const at = { vortexPeer: true, ...(kind !== "cache" && addresses) };
      assert.deepEqual(pieces, [
        { number: 0, offset: 0, length: 5000, ...at },
        { number: 1, offset: 5000, length: 5000, ...at },
        { number: 2, offset: 10_000, length: 2000, ...at },
      ]);
      const other = kind === "standard" ? "persistent" : "standard";
      await assertRejects(
        all(pair.downloader.syncPieces(addr, { taskId, hostId, kind: other })),
        "NotFound",
      );
      await assertClean(pair);
    });
  }

  it("announces only the requested pieces, and ends", async () => {
    const { store, put } = growingStore();
    put(0);
    put(2);
    const pair = downloaderOf(peerOf(store).peer);
    const pieces = await all(
      pair.downloader.syncPieces(addr, { taskId, hostId, interestedPieceNumbers: [2, 2, 0] }),
    );
    assert.deepEqual(
      pieces.map(({ number }) => number),
      [0, 2],
    );
    await assertClean(pair);
  });

  it("fills in the requested host, and omits servers that do not exist", async () => {
    const pair = downloaderOf(peerOf(storeOf(), {}, { quicPort: 4006 }).peer);
    const [piece] = await all(pair.downloader.syncPieces(addr, { taskId, hostId }));
    const quicAddr = "127.0.0.1:4006";
    assert.deepEqual(piece, { number: 0, offset: 0, length: 5000, vortexPeer: true, quicAddr });
    await assertClean(pair);
  });

  it("announces each new piece of a growing task once, and ends with the task", async () => {
    const { store, put } = growingStore();
    put(1);
    const pair = downloaderOf(peerOf(store).peer);
    const pieces = pair.downloader.syncPieces(addr, { taskId, hostId });
    const next = async () => (await pieces.next()).value?.number;
    assert.equal(await next(), 1);
    const second = next();
    await settle();
    put(2);
    assert.equal(await second, 2);
    const third = next();
    await settle();
    put(0);
    assert.equal(await third, 0);
    assert.equal((await pieces.next()).done, true);
    await assertClean(pair);
  });

  it("fails when the task is abandoned, and hides the reason from the peer", async () => {
    const { store, growing, put } = growingStore();
    put(1);
    const { peer, errors } = peerOf(store);
    const pair = downloaderOf(peer);
    const pieces = pair.downloader.syncPieces(addr, { taskId, hostId });
    await pieces.next();
    growing.fail(new VortexError("StorageFailed", "disk full"));
    const error = await assertRejects(pieces.next(), "RemoteInternal");
    assert.doesNotMatch(error.message, /disk/);
    assert.deepEqual(
      errors.map(({ message }) => message),
      ["disk full"],
    );
    await assertClean(pair);
  });

  it("is NotFound for the rest of a task that was ended early", async () => {
    const { store, growing, put } = growingStore();
    put(1);
    const { peer, errors } = peerOf(store);
    const pair = downloaderOf(peer);
    const pieces = pair.downloader.syncPieces(addr, { taskId, hostId });
    await pieces.next();
    growing.fail(new VortexError("NotFound", "no further pieces come"));
    await assertRejects(pieces.next(), "NotFound");
    assert.deepEqual(errors, []);
    await assertClean(pair);
  });

  it("ends at the server when the client stops iterating, aborts or closes", async () => {
    for (const end of ["leave", "abort", "close"] as const) {
      const { store, put } = growingStore();
      put(0);
      let watchers = 0;
      const getTask: PieceStore["getTask"] = async (id) => {
        const task = await store.getTask(id);
        return (
          task && {
            ...task,
            pieces: () => task.pieces(),
            watch: async function* (options) {
              watchers++;
              try {
                yield* task.watch?.(options) ?? [];
              } finally {
                watchers--;
              }
            },
          }
        );
      };
      const { peer, errors } = peerOf({
        getTask,
        getPiece: (request) => store.getPiece(request),
      });
      const pair = downloaderOf(peer);
      const controller = new AbortController();
      const pieces = pair.downloader.syncPieces(
        addr,
        { taskId, hostId },
        { signal: controller.signal },
      );
      await pieces.next();
      assert.equal(watchers, 1);
      if (end === "leave") {
        await pieces.return();
      } else {
        const waiting = pieces.next();
        await settle();
        if (end === "abort") controller.abort();
        else void pair.downloader.close();
        await assertRejects(waiting, end === "abort" ? "Aborted" : "Closed");
      }
      await settle();
      assert.equal(watchers, 0, end);
      assert.deepEqual(errors, []);
      await assertClean(pair);
    }
  });

  it("enforces the maximum number of streams", async () => {
    const { store, put } = growingStore();
    put(0);
    const pair = downloaderOf(peerOf(store, { maxTaskStreams: 2 }).peer);
    const open = [0, 1].map(() => pair.downloader.syncPieces(addr, { taskId, hostId }));
    for (const pieces of open) await pieces.next();
    await assertRejects(all(pair.downloader.syncPieces(addr, { taskId, hostId })), "RemoteBusy");
    await assertRejects(pair.downloader.downloadTask(addr, source), "RemoteBusy");
    for (const pieces of open) await pieces.return();
    await settle();
    const again = pair.downloader.syncPieces(addr, { taskId, hostId });
    assert.equal((await again.next()).value?.number, 0);
    await again.return();
    await assertClean(pair);
  });

  it("makes room for a stream by ending one of the busiest network, unless the newcomer has as many", async () => {
    const { store, put, growing } = growingStore();
    put(0);
    const { methods, errors } = peerOf(store, { maxTaskStreams: 3 });
    const greedy = downloaderOf(peerServing(methods, "10.0.0.1"));
    const open = [0, 1, 2].map(() => greedy.downloader.syncPieces(addr, { taskId, hostId }));
    for (const pieces of open) await pieces.next();
    // Waits for the next piece of a growing task, so the end of the stream is seen at once.
    const ends = assertRejects(open[0]?.next() ?? Promise.resolve(), "RemoteBusy");
    const other = downloaderOf(peerServing(methods, "10.0.0.2"));
    const pieces = other.downloader.syncPieces(addr, { taskId, hostId });
    assert.equal((await pieces.next()).value?.number, 0);
    await ends;
    // Two and one: a second stream of the second network would leave the first with fewer.
    await assertRejects(all(other.downloader.syncPieces(addr, { taskId, hostId })), "RemoteBusy");
    await assertRejects(other.downloader.downloadTask(addr, source), "RemoteBusy");
    const third = downloaderOf(peerServing(methods, "10.0.0.3"));
    // Takes the place of a stream of the first network, whose answer ends at the next piece.
    const task = await third.downloader.downloadTask(addr, source);
    const content = all(task);
    await settle();
    await assertRejects(open[1]?.next() ?? Promise.resolve(), "RemoteBusy");
    for (const number of [1, 2]) put(number);
    assert.equal(growing.task.complete, true);
    assert.equal((await content).length, 3);
    assert.deepEqual(
      (await all(pieces)).map(({ number }) => number),
      [1, 2],
    );
    assert.deepEqual(
      (await all(open[2] ?? pieces)).map(({ number }) => number),
      [1, 2],
    );
    assert.deepEqual(errors, []);
    for (const pair of [greedy, other, third]) await assertClean(pair);
  });

  it("aborts the store lookup of an evicted answer", async () => {
    const { store: whole, put } = growingStore();
    put(0);
    let evicted = (): void => {};
    const aborted = new Promise<void>((resolve) => {
      evicted = resolve;
    });
    let lookups = 0;
    const store: PieceStore = {
      getTask: (id) => whole.getTask(id),
      getPiece(request, { signal } = {}) {
        // Only the lookup of the first answer hangs.
        if (++lookups > 1) return whole.getPiece(request);
        return new Promise((_resolve, reject) => {
          signal?.addEventListener("abort", () => {
            evicted();
            reject(signal.reason);
          });
        });
      },
    };
    const { methods } = peerOf(store, { maxTaskStreams: 2 });
    const greedy = downloaderOf(peerServing(methods, "10.0.0.1"));
    const content = all(await greedy.downloader.downloadTask(addr, source));
    content.catch(() => {});
    await settle();
    const open = greedy.downloader.syncPieces(addr, { taskId, hostId });
    await open.next();
    const other = downloaderOf(peerServing(methods, "10.0.0.2"));
    const pieces = other.downloader.syncPieces(addr, { taskId, hostId });
    assert.equal((await pieces.next()).value?.number, 0);
    await aborted;
    await assertRejects(content, "RemoteBusy");
    await open.return?.();
    await pieces.return?.();
  });

  it("does not wait for pieces beyond the task's end", async () => {
    const { store, put } = growingStore();
    const pair = downloaderOf(peerOf(store).peer);
    const sync = (interestedPieceNumbers: readonly number[]) =>
      pair.downloader.syncPieces(addr, { taskId, hostId, interestedPieceNumbers });
    assert.deepEqual(await all(sync([3, 4_294_967_295])), []);
    const some = all(sync([4_294_967_295, 2, 9, 2]));
    await settle();
    put(1);
    put(2);
    assert.deepEqual(
      (await some).map(({ number }) => number),
      [2],
    );
    await assertClean(pair);
  });

  it("rejects an empty task id, and hides the error of the store", async () => {
    const broken: PieceStore = {
      getPiece: async () => undefined,
      getTask: async () => {
        throw new Error("/secret/path: I/O error");
      },
    };
    const { peer, errors } = peerOf(broken);
    const pair = downloaderOf(peer);
    await assertRejects(
      all(pair.downloader.syncPieces(addr, { taskId: "", hostId })),
      "RemoteInvalidArgument",
    );
    const error = await assertRejects(
      all(pair.downloader.syncPieces(addr, { taskId, hostId })),
      "RemoteInternal",
    );
    assert.doesNotMatch(error.message, /secret/);
    assert.equal(errors.length, 1);
    await assertClean(pair);
  });
});

describe("SyncPieces of a hostile peer", () => {
  const good: SyncInit = {
    number: 0,
    offset: 0n,
    length: 5000n,
    ip: "10.0.0.9",
    tcpPort: 4005,
    quicPort: 4006,
  };

  async function failure(
    answers: readonly SyncInit[],
    code: ErrorCode,
    request: Partial<SyncRequest> = {},
  ) {
    const syncPieces = async function* () {
      yield* answers;
    };
    const pair = downloaderOf(scriptedPeer({ syncPieces }), { maxPieceLength: 8192 });
    const error = await assertRejects(
      all(pair.downloader.syncPieces(addr, { taskId, hostId, ...request })),
      code,
    );
    assert.equal(error.addr, addr);
    await assertClean(pair);
  }

  it("with announcements that are too large or contradictory has the code of the fault", async () => {
    await failure([{ ...good, length: 8193n }], "LimitExceeded");
    await failure([{ ...good, number: 1, offset: 1n << 53n }], "LimitExceeded");
    await failure([{ ...good, number: 1, offset: (1n << 64n) - 1n }], "LimitExceeded");
    await failure([{ ...good, length: 0n }], "ProtocolViolation");
    await failure([good, good], "ProtocolViolation");
    await failure([good, { ...good, number: 1, offset: 4999n }], "ProtocolViolation");
    await failure([{ ...good, number: 7, offset: 35_000n }], "ProtocolViolation", {
      interestedPieceNumbers: [1, 2],
    });
    await failure([good], "ProtocolViolation", { contentLength: 12_000, pieceLength: 4000 });
    await failure([{ ...good, number: 3, offset: 15_000n }], "ProtocolViolation", {
      contentLength: 12_000,
    });
  });

  it("with invalid addresses is a ProtocolViolation", async () => {
    for (const ip of [
      "evil.example",
      "10.0.0.256",
      "1.1",
      "::g",
      "10.0.0.1/8",
      "10.0.0.1.",
      "[::1]",
      " ",
    ]) {
      await failure([{ ...good, ip }], "ProtocolViolation");
    }
    for (const port of [-1, 65_536, -(2 ** 31), 2 ** 31 - 1]) {
      await failure([{ ...good, tcpPort: port }], "ProtocolViolation");
      await failure([{ ...good, quicPort: port }], "ProtocolViolation");
    }
  });

  it("with any valid form of addresses is accepted", async () => {
    const forms = [
      ["10.0.0.9", "10.0.0.9:4005"],
      ["fd00::9", "[fd00::9]:4005"],
      ["0.0.0.0", "127.0.0.1:4005"],
      ["::", "127.0.0.1:4005"],
      ["", "127.0.0.1:4005"],
    ] as const;
    for (const [ip, tcpAddr] of forms) {
      const syncPieces = async function* () {
        yield { ...good, ip, quicPort: 0 };
      };
      const pair = downloaderOf(scriptedPeer({ syncPieces }));
      const [piece] = await all(pair.downloader.syncPieces(addr, { taskId, hostId }));
      assert.deepEqual(piece, { number: 0, offset: 0, length: 5000, tcpAddr });
      await assertClean(pair);
    }
  });

  it("with endless announcements is cut off at the first that was not requested", async () => {
    let sent = 0;
    const syncPieces = async function* () {
      for (let number = 0; ; number++, sent++) yield { number, offset: BigInt(number), length: 1n };
    };
    const pair = downloaderOf(scriptedPeer({ syncPieces }));
    const request = { taskId, hostId, interestedPieceNumbers: [0, 1, 2] };
    await assertRejects(all(pair.downloader.syncPieces(addr, request)), "ProtocolViolation");
    await assertClean(pair);
    assert.ok(sent < 10);
  });

  it("that is silent, at first or between pieces, stalls", async () => {
    for (const before of [0, 1]) {
      const syncPieces = async function* () {
        for (let number = 0; number < before; number++) yield good;
        await new Promise<void>(() => {});
      };
      const pair = downloaderOf(scriptedPeer({ syncPieces }));
      const pieces = all(pair.downloader.syncPieces(addr, { taskId, hostId }));
      const failed = assertRejects(pieces, "Stalled");
      assert.ok((await pair.clock.advanceUntil(failed, 40_000)) >= 30_000);
      await assertClean(pair);
    }
  });

  it("that sends slowly is limited by the deadline of each announcement", async () => {
    const syncPieces = async function* () {
      yield good;
      await new Promise<void>(() => {});
    };
    const pair = downloaderOf(scriptedPeer({ syncPieces }));
    const pieces = pair.downloader.syncPieces(addr, { taskId, hostId }, { pieceTimeout: 100_000 });
    await pieces.next();
    await pair.clock.advance(1_000_000);
    const waiting = assertRejects(pieces.next(), "PieceTimeout");
    for (let round = 0; round < 10; round++) {
      await pair.clock.advance(10_000);
      // HTTP/2 reports this when a byte of the next message arrives.
      pair.binding.connections[0]?.onBytes();
    }
    await waiting;
    await assertClean(pair);
  });

  it("without the call, or with a lost connection, has its own code", async () => {
    const unserved = downloaderOf(scriptedPeer({}));
    await assertRejects(
      all(unserved.downloader.syncPieces(addr, { taskId, hostId })),
      "RemoteUnimplemented",
    );
    await assertClean(unserved);
    const syncPieces = async function* () {
      yield good;
      await new Promise<void>(() => {});
    };
    const lost = downloaderOf(scriptedPeer({ syncPieces }));
    const pieces = lost.downloader.syncPieces(addr, { taskId, hostId });
    await pieces.next();
    const waiting = assertRejects(pieces.next(), "ConnectionLost");
    await settle();
    lost.binding.connections[0]?.lose();
    await waiting;
    await assertClean(lost);
  });

  it("is not dialled for invalid numbers: InvalidArgument", async () => {
    const pair = downloaderOf(scriptedPeer({}));
    for (const number of [-1, 0.5, 2 ** 32]) {
      const request = { taskId, hostId, interestedPieceNumbers: [number] };
      await assertRejects(all(pair.downloader.syncPieces(addr, request)), "InvalidArgument");
    }
    await assertClean(pair);
  });
});

describe("DownloadTask of a store", () => {
  async function fetched(
    store: PieceStore,
    what: TaskIdentity = source,
    options: DownloadTaskOptions = {},
    serverOptions: ServerOptions = {},
  ): Promise<Map<number, Uint8Array>> {
    const pair = downloaderOf(peerOf(store, serverOptions).peer);
    const task = await pair.downloader.downloadTask(addr, what, options);
    assert.equal(task.contentLength, content.length);
    const pieces = await all(task);
    await assertClean(pair);
    return new Map(pieces.map((piece) => [piece.number, piece.content]));
  }

  const whole = new Map(
    [0, 1, 2].map((number) => [number, content.subarray(number * 5000, (number + 1) * 5000)]),
  );

  it("sends a task with all its metadata", async () => {
    const pair = downloaderOf(
      peerOf(storeOf(), {}, { hostname: "h1", advertisedIp: "10.1.2.3" }).peer,
    );
    const task = await pair.downloader.downloadTask(addr, source);
    assert.equal(task.taskId, taskId);
    assert.equal(task.hostId, "10.1.2.3-h1");
    assert.match(task.peerId, /^10\.1\.2\.3-h1-07070707-0707-4707-8707-070707070707$/);
    const [piece] = await all(task);
    assert.ok(piece);
    const { content: bytes, metadata, ...rest } = piece;
    const digest = digestOf("crc32", content.subarray(0, 5000), portableHashers);
    assert.deepEqual(rest, { number: 0, offset: 0, length: 5000, digest });
    assert.deepEqual(bytes, content.subarray(0, 5000));
    assert.equal(metadata.createdAtSeconds, 1_700_000_000n);
    await assertRejects(all(task), "InvalidArgument");
    await assertClean(pair);
  });

  it("finds the task by URL, text, blob digest, object or id", async () => {
    assert.deepEqual(await fetched(storeOf()), whole);
    const named = { url: "", content: "a text" };
    assert.deepEqual(await fetched(storeOf("standard", taskIdOfContent("a text")), named), whole);
    const id = "ab".repeat(32);
    const blob = { url: `https://registry/v2/a/b/blobs/sha256:${id}?ns=x`, blobDigest: true };
    assert.deepEqual(await fetched(storeOf("standard", id), blob), whole);
    const manifest = { url: `https://registry/v2/a/b/manifests/crc32:7`, blobDigest: true };
    assert.deepEqual(await fetched(storeOf("standard", standardTaskId(manifest)), manifest), whole);
    const object = { url: "key", region: "r", endpoint: "e" };
    const persistent = { ...object, kind: "persistent" } as const;
    assert.deepEqual(
      await fetched(storeOf("persistent", persistentTaskId(object)), persistent),
      whole,
    );
    const cached = { kind: "persistent-cache", taskId: id } as const;
    assert.deepEqual(await fetched(storeOf("persistent-cache", id), cached), whole);
    for (const url of ["hf://org/repo/file", "modelscope://models/org/repo/file"]) {
      const hub = { url, revision: "main", pieceLength: 5000, application: "app" };
      assert.deepEqual(await fetched(storeOf("standard", taskIdOfUrl(hub)), hub), whole);
    }
    const pair = downloaderOf(peerOf(storeOf()).peer);
    await assertRejects(
      pair.downloader.downloadTask(addr, { url: "http://a", revision: "x" }),
      "InvalidArgument",
    );
    await assertRejects(
      pair.downloader.downloadTask(addr, { url: "a", filteredQueryParams: ["x"] }),
      "InvalidArgument",
    );
    await assertRejects(pair.downloader.downloadTask(addr, { url: "http://a" }), "NotFound");
    await assertClean(pair);
  });

  it("finds a task by the id that dfdaemon 1.5.2 derives, if both sides are set to it", async () => {
    const old = { url: "https://example.com/", idVersion: "1.5.2" } as const;
    const store = storeOf("standard", taskIdOfUrl(old));
    assert.deepEqual(await fetched(store, old, {}, { idVersion: "1.5.2" }), whole);
    await assertRejects(fetched(store, old), "NotFound");
  });

  it("sends the pieces that overlap a range", async () => {
    const numbers = async (start: number, end: number) => [
      ...(await fetched(storeOf(), source, { range: { start, end } })).keys(),
    ];
    assert.deepEqual(await numbers(0, 1), [0]);
    assert.deepEqual(await numbers(4999, 5001), [0, 1]);
    assert.deepEqual(await numbers(5000, 10_000), [1]);
    assert.deepEqual(await numbers(11_999, 99_999), [2]);
    const pair = downloaderOf(peerOf(storeOf()).peer);
    const ask = (start: number, end: number, what: TaskIdentity = source) =>
      pair.downloader.downloadTask(addr, what, { range: { start, end } });
    await assertRejects(ask(12_000, 12_001), "RemoteInvalidArgument");
    await assertRejects(ask(5, 5), "InvalidArgument");
    await assertRejects(ask(0, 5, { kind: "persistent-cache", taskId }), "InvalidArgument");
    await assertClean(pair);
  });

  it("sends the pieces of a growing task as they arrive", async () => {
    const { store, put } = growingStore();
    put(2);
    const pair = downloaderOf(peerOf(store).peer);
    const pieces = (await pair.downloader.downloadTask(addr, source))[Symbol.asyncIterator]();
    assert.equal((await pieces.next()).value?.number, 2);
    const second = pieces.next();
    await settle();
    put(0);
    assert.equal((await second).value?.number, 0);
    put(1);
    assert.deepEqual((await pieces.next()).value?.content, content.subarray(5000, 10_000));
    assert.equal((await pieces.next()).done, true);
    await assertClean(pair);
  });

  it("sends an empty task", async () => {
    const store = new MemoryPieceStore();
    store.putTask(taskId, new Uint8Array(0));
    const pair = downloaderOf(peerOf(store).peer);
    const task = await pair.downloader.downloadTask(addr, source);
    assert.equal(task.contentLength, 0);
    assert.deepEqual(await all(task), []);
    assert.deepEqual(await all(pair.downloader.syncPieces(addr, { taskId, hostId })), []);
    await assertClean(pair);
  });

  it("ends when it is cancelled before, during and after the iteration", async () => {
    const { store, put } = growingStore();
    put(0);
    const pair = downloaderOf(peerOf(store).peer);
    const before = await pair.downloader.downloadTask(addr, source);
    before.cancel();
    await assertRejects(all(before), "Aborted");
    const within = await pair.downloader.downloadTask(addr, source);
    for await (const piece of within) {
      assert.equal(piece.number, 0);
      break;
    }
    const waiting = await pair.downloader.downloadTask(addr, source);
    const failed = assertRejects(all(waiting), "Aborted");
    await settle();
    waiting.cancel();
    await failed;
    put(1);
    put(2);
    const after = await pair.downloader.downloadTask(addr, source);
    assert.equal((await all(after)).length, 3);
    after.cancel();
    await assertClean(pair);
  });

  it("is RemoteInternal for an abandoned task, NotFound for one that was ended early", async () => {
    for (const code of ["StorageFailed", "NotFound"] as const) {
      const { store, growing, put } = growingStore();
      put(0);
      const pair = downloaderOf(peerOf(store).peer);
      const pieces = (await pair.downloader.downloadTask(addr, source))[Symbol.asyncIterator]();
      await pieces.next();
      growing.fail(new VortexError(code, "gone"));
      await assertRejects(pieces.next(), code === "NotFound" ? "NotFound" : "RemoteInternal");
      await assertClean(pair);
    }
  });

  it("obeys the upload rate limit, and reads a chunk after the previous one was sent", async () => {
    const clock = new FakeClock();
    const settings = serverSettings({ uploadRateLimit: 4000 }, fakeRuntime(clock));
    const pair = downloaderOf(peerServing(grpcDispatcher(storeOf(), settings)));
    const pieces = pair.downloader.downloadTask(addr, source).then(all);
    await settle();
    const took = await clock.advanceUntil(pieces, 60_000, 500);
    assert.ok(took >= 2000, `${took} ms for 12,000 bytes at 4,000 a second, 4,000 of them at once`);
    assert.equal((await pieces).length, 3);
    await assertClean(pair);
  });

  it("sends stock clients the expected fields, with content only on request", async () => {
    const client = clientOf(peerOf(storeOf()).peer);
    const messages = await all(client.downloadTask({ download: source }));
    const [first, ...rest] = messages.map(({ response }) => response);
    assert.equal(first?.case, "downloadTaskStartedResponse");
    if (first?.case !== "downloadTaskStartedResponse") return;
    assert.equal(first.value.contentLength, 12_000n);
    assert.equal(first.value.isFinished, true);
    assert.match(first.value.responseHeader["repr-digest"] ?? "", /^sha-256=:.*:$/);
    assert.deepEqual(
      first.value.pieces.map(({ number, offset, length }) => [number, offset, length]),
      [
        [0, 0n, 5000n],
        [1, 5000n, 5000n],
        [2, 10_000n, 2000n],
      ],
    );
    for (const [number, response] of rest.entries()) {
      assert.equal(response.case, "downloadPieceFinishedResponse");
      if (response.case !== "downloadPieceFinishedResponse") continue;
      assert.equal(response.value.piece?.number, number);
      assert.equal(response.value.piece?.content, undefined);
      assert.match(response.value.piece?.digest ?? "", /^crc32:/);
    }
    assert.equal(rest.length, 3);
  });

  it("encodes the list of a task's pieces once for all requests, and later pieces as they arrive", async () => {
    const memory = storeOf();
    const { store: growingOne, growing, put } = growingStore();
    let read = 0;
    const counted = async (store: MemoryPieceStore, id: string) => {
      const task = await store.getTask(id);
      assert.ok(task !== undefined);
      const { watch, pieces, ...rest } = task;
      const complete = (): boolean => task.complete !== false;
      return {
        ...rest,
        get complete() {
          return complete();
        },
        *pieces() {
          for (const piece of pieces()) {
            read++;
            yield piece;
          }
        },
      };
    };
    const tasks = {
      whole: await counted(memory, taskId),
      growing: await counted(growingOne, taskId),
    };
    let served: StoredTask = tasks.whole;
    const { peer } = peerOf({ getTask: async () => served, getPiece: async () => undefined });
    const client = clientOf(peer);
    const listed = async (range?: { start: bigint; length: bigint }) => {
      for await (const { response } of client.downloadTask({
        download: { ...source, ...(range && { range }) },
      })) {
        assert.ok(response.case === "downloadTaskStartedResponse");
        return response.value.pieces.map(({ number, offset, length, digest }) => [
          number,
          offset,
          length,
          digest !== "",
        ]);
      }
      return undefined;
    };
    const all = [
      [0, 0n, 5000n, true],
      [1, 5000n, 5000n, true],
      [2, 10_000n, 2000n, true],
    ];
    for (let time = 0; time < 3; time++) {
      assert.deepEqual(await listed(), all);
      const stat = await client.statTask({ taskId });
      assert.deepEqual(
        stat.pieces.map(({ number, offset, length, digest }) => [
          number,
          offset,
          length,
          digest !== "",
        ]),
        all,
      );
    }
    // Once for each of the two fields.
    assert.equal(read, 6);
    assert.deepEqual(await listed({ start: 4999n, length: 2n }), all.slice(0, 2));
    assert.deepEqual(await listed({ start: 5000n, length: 5000n }), all.slice(1, 2));
    assert.deepEqual(await listed({ start: 9999n, length: 1_000_000n }), all.slice(1));
    served = tasks.growing;
    put(1);
    for (let time = 0; time < 2; time++) {
      assert.deepEqual(
        (await listed())?.map(([number, , , known]) => [number, known]),
        [
          [0, false],
          [1, true],
          [2, false],
        ],
      );
      assert.deepEqual(
        (await client.statTask({ taskId })).pieces.map(({ number }) => number),
        [1],
      );
    }
    put(0);
    assert.deepEqual(
      (await client.statTask({ taskId })).pieces.map(({ number }) => number),
      [0, 1],
    );
    assert.equal((await client.statTask({ taskId })).state, "Running");
    put(2);
    assert.equal(growing.task.complete, true);
    assert.deepEqual(await listed(), all);
    assert.equal((await client.statTask({ taskId })).state, "Succeeded");
  });

  it("rejects output paths, ranges in headers, and requests without a task", async () => {
    const client = clientOf(peerOf(storeOf()).peer);
    const refused = async (messages: AsyncIterable<unknown>) =>
      assert.rejects(all(messages), { code: Code.InvalidArgument });
    await refused(client.downloadTask({}));
    await refused(client.downloadTask({ download: { ...source, outputPath: "/etc/passwd" } }));
    await refused(
      client.downloadTask({ download: { ...source, requestHeader: { RANGE: "bytes=0-1" } } }),
    );
    await refused(client.downloadTask({ download: { ...source, url: "no url" } }));
    await refused(
      client.downloadTask({ download: { ...source, range: { start: 0n, length: 0n } } }),
    );
    await refused(client.downloadPersistentTask({ url: "key" }));
    await refused(
      client.downloadPersistentTask({ url: "key", outputPath: "/x", objectStorage: {} }),
    );
    await refused(client.downloadPersistentCacheTask({ taskId, outputPath: "/x" }));
    await refused(client.downloadPersistentCacheTask({}));
  });
});

describe("DownloadTask of a hostile peer", () => {
  const ids = { hostId: "h", taskId, peerId: "p" };
  const started: TaskInit = {
    ...ids,
    response: { case: "downloadTaskStartedResponse", value: { contentLength: 12_000n } },
  };
  const piece = (number: number, changes: Partial<PieceInit> = {}): TaskInit => {
    const bytes = content.subarray(number * 5000, (number + 1) * 5000);
    const offset = BigInt(number * 5000);
    const digest = digestOf("crc32", bytes, portableHashers);
    const value = {
      piece: { number, offset, length: BigInt(bytes.length), digest, content: bytes, ...changes },
    };
    return {
      ...ids,
      response: { case: "downloadPieceFinishedResponse", value: value as { piece: PieceInit } },
    };
  };

  async function failure(
    answers: readonly TaskInit[],
    code: ErrorCode,
    options: DownloadTaskOptions = {},
  ) {
    const downloadTask = async function* () {
      yield* answers;
    };
    const pair = downloaderOf(scriptedPeer({ downloadTask }), { maxPieceLength: 8192 });
    const error = await assertRejects(
      pair.downloader.downloadTask(addr, source, options).then(all),
      code,
    );
    assert.equal(error.addr, addr);
    await assertClean(pair);
  }

  it("with a wrong first message has the code of the fault", async () => {
    await failure([piece(0)], "ProtocolViolation");
    await failure([ids], "ProtocolViolation");
    await failure([{ ...started, taskId: "f".repeat(64) }], "ProtocolViolation");
    const long = {
      case: "downloadTaskStartedResponse",
      value: { contentLength: 1n << 53n },
    } as const;
    await failure([{ ...ids, response: long }], "LimitExceeded");
  });

  it("with wrong pieces has the code of the fault", async () => {
    await failure([started, started], "ProtocolViolation");
    await failure(
      [started, { ...ids, response: { case: "downloadPieceFinishedResponse", value: {} } }],
      "ProtocolViolation",
    );
    await failure([started, piece(0), piece(0)], "ProtocolViolation");
    await failure([started, piece(0, { content: new Uint8Array(5000) })], "DigestMismatch");
    await failure([started, piece(0, { content: content.subarray(0, 4999) })], "LengthMismatch");
    await failure([started, piece(0, { digest: "crc32" })], "ProtocolViolation");
    await failure([started, piece(0, { offset: 1n })], "ProtocolViolation");
    await failure([started, piece(1, { offset: 4000n })], "ProtocolViolation");
    await failure([started, piece(0, { length: 9000n })], "LimitExceeded");
    await failure([started, piece(2)], "ProtocolViolation", { range: { start: 0, end: 9000 } });
    const withoutContent = piece(0);
    if (withoutContent.response?.case === "downloadPieceFinishedResponse") {
      const { piece: whole } = withoutContent.response.value as { piece: PieceInit };
      const { content: _content, ...rest } = whole;
      const value = { piece: rest };
      await failure(
        [started, { ...ids, response: { case: "downloadPieceFinishedResponse", value } }],
        "ProtocolViolation",
      );
    }
  });

  it("that ends early is TruncatedContent", async () => {
    await failure([started, piece(0), piece(2)], "TruncatedContent");
    await failure([started, piece(0)], "TruncatedContent", { range: { start: 0, end: 5001 } });
  });

  it("that is silent, at first or between pieces, stalls", async () => {
    for (const answers of [[], [started], [started, piece(0)]]) {
      const downloadTask = async function* () {
        yield* answers;
        await new Promise<void>(() => {});
      };
      const pair = downloaderOf(scriptedPeer({ downloadTask }));
      const failed = assertRejects(pair.downloader.downloadTask(addr, source).then(all), "Stalled");
      assert.ok((await pair.clock.advanceUntil(failed, 40_000)) >= 30_000);
      await assertClean(pair);
    }
  });

  it("does not stall while the client is busy elsewhere", async () => {
    const pair = downloaderOf(peerOf(storeOf()).peer);
    const pieces = (await pair.downloader.downloadTask(addr, source))[Symbol.asyncIterator]();
    for (let number = 0; number < 3; number++) {
      assert.equal((await pieces.next()).value?.number, number);
      await pair.clock.advance(1_000_000);
    }
    assert.equal((await pieces.next()).done, true);
    await assertClean(pair);
  });
});

describe("GrpcDirectory", () => {
  it("reports the pieces of parents to the task engine", async () => {
    const { peer } = peerOf(storeOf(), {}, { tcpPort: 4005, advertisedIp: "10.1.2.3" });
    const pair = downloaderOf(peer);
    const directory = new GrpcDirectory(pair.downloader);
    const { signal } = new AbortController();
    const outline = await directory.stat(addr, taskId, { signal, hostId, kind: "standard" });
    assert.deepEqual(outline, {
      contentLength: 12_000,
      pieceLength: 5000,
      pieceCount: 3,
      digest: sha256,
    });
    const numbers = [1];
    const locations = await all(
      directory.sync(addr, taskId, { signal, hostId, kind: "standard", numbers }),
    );
    assert.deepEqual(locations, [
      { number: 1, offset: 5000, length: 5000, vortexPeer: true, tcpAddr: "10.1.2.3:4005" },
    ]);
    await assertClean(pair);
  });

  it("rejects a task with too many pieces to list their numbers", async () => {
    for (const [contentLength, pieceLength] of [
      [2n ** 32n - 1n, 1n],
      [2n ** 53n - 1n, 1n],
      [1_000_001n, 1n],
    ] as const) {
      const pair = downloaderOf(
        scriptedPeer({ statLocalTask: () => ({ contentLength, pieceLength }) }),
      );
      const { signal } = new AbortController();
      const stat = new GrpcDirectory(pair.downloader).stat(addr, taskId, {
        signal,
        hostId,
        kind: "standard",
      });
      assert.equal((await assertRejects(stat, "LimitExceeded")).addr, addr);
      await assertClean(pair);
    }
  });

  it("splits many pieces into several calls, and makes no call for none", async () => {
    const asked: number[][] = [];
    const syncPieces = async function* ({
      interestedPieceNumbers,
    }: {
      interestedPieceNumbers: number[];
    }) {
      asked.push(interestedPieceNumbers);
      for (const number of interestedPieceNumbers.slice(0, 2)) {
        yield {
          number,
          offset: BigInt(number) * 5000n,
          length: 5000n,
          ip: "10.0.0.9",
          tcpPort: 4005,
        };
      }
    };
    const pair = downloaderOf(scriptedPeer({ syncPieces }));
    const directory = new GrpcDirectory(pair.downloader);
    const sync = (numbers: readonly number[]) => {
      const { signal } = new AbortController();
      return directory.sync(addr, taskId, { signal, hostId, kind: "standard", numbers });
    };
    const numbers = Array.from({ length: 120_000 }, (_, number) => number);
    const told = (await all(sync(numbers))).map(({ number }) => number);
    assert.deepEqual(
      told.toSorted((a, b) => a - b),
      [0, 1, 50_000, 50_001, 100_000, 100_001],
    );
    assert.deepEqual(asked.flat(), numbers);
    assert.deepEqual(
      asked.map(({ length }) => length),
      [50_000, 50_000, 20_000],
    );
    assert.deepEqual(await all(sync([])), []);
    assert.equal(asked.length, 3);
    // Ending the iteration early ends all calls.
    for await (const _location of sync(numbers)) break;
    await settle();
    await assertClean(pair);
  });

  it("a failure of one of several calls fails the iteration", async () => {
    const syncPieces = async function* ({
      interestedPieceNumbers,
    }: {
      interestedPieceNumbers: number[];
    }) {
      if (interestedPieceNumbers[0] !== 0) throw new ConnectError("no", Code.Internal);
      await new Promise(() => {});
    };
    const pair = downloaderOf(scriptedPeer({ syncPieces }));
    const numbers = Array.from({ length: 60_000 }, (_, number) => number);
    await assertRejects(
      all(pair.downloader.syncPieces(addr, { taskId, hostId, interestedPieceNumbers: numbers })),
      "RemoteInternal",
    );
    await settle();
    await assertClean(pair);
  });
});

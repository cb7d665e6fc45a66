/** Habits of dfdaemon's gRPC API that a client must cope with. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { ServiceImpl } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { grpcBinding } from "../../../adapters/grpc/client.ts";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { GrpcDirectory } from "../../../src/client/grpc/directory.ts";
import { GrpcDownloader } from "../../../src/client/grpc/downloader.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import type { DfdaemonUpload } from "../../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { taskIdOfUrl } from "../../../src/ids.ts";
import { TaskFetcher } from "../../../src/task/fetcher.ts";
import { memorySink } from "../../../src/task/memory-sink.ts";
import { assertRejects, assertThrows } from "../../support/failures.ts";
import { FakeClock, fakeRuntime } from "../../support/fake-clock.ts";
import { MemoryGrpcBinding, scriptedPeer } from "../../support/grpc.ts";
import { seededBytes } from "../../support/random.ts";
import { FakeParents, honest, taskSettings } from "../../support/task-parents.ts";

const addr = "127.0.0.1:4000";
const source = { url: "https://example.com/file" };
const taskId = taskIdOfUrl(source);
const PIECE = 1000;
const content = seededBytes(51, 9 * PIECE + 500);
const UNKNOWN = 0xffff_ffff_ffff_ffffn;

type Methods = Partial<ServiceImpl<typeof DfdaemonUpload>>;

/** Peer that has `held` pieces of the task, and whose SyncPieces then behaves like `end`. */
function stockPeer(held: readonly number[], end: () => Promise<void>, more: Methods = {}): Methods {
  const lengths = { contentLength: BigInt(content.length), pieceLength: BigInt(PIECE) };
  const extent = (number: number) => ({
    number,
    offset: BigInt(number * PIECE),
    length: BigInt(Math.min(PIECE, content.length - number * PIECE)),
  });
  return {
    statLocalTask: () => ({ taskId, ...lengths }),
    async *syncPieces({ interestedPieceNumbers }) {
      for (const number of held)
        if (interestedPieceNumbers.includes(number)) yield { ...extent(number), ip: "127.0.0.1" };
      await end();
    },
    async *downloadTask() {
      const { contentLength } = lengths;
      const response = { case: "downloadTaskStartedResponse", value: { contentLength } } as const;
      yield { hostId: "h", taskId, peerId: "p", response };
    },
    downloadPiece: ({ pieceNumber: number }) => {
      const bytes = content.subarray(number * PIECE, (number + 1) * PIECE);
      const digest = digestOf("crc32", bytes, portableHashers);
      return { piece: { ...extent(number), digest, content: bytes } };
    },
    ...more,
  };
}

function downloaderOf(methods: Methods) {
  const clock = new FakeClock();
  const binding = new MemoryGrpcBinding(scriptedPeer(methods));
  const settings = downloaderSettings({}, fakeRuntime(clock));
  return { downloader: new GrpcDownloader(async () => binding, settings), clock };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

const every = Array.from({ length: 10 }, (_, number) => number);
const ends = async (): Promise<void> => {};
const staysOpen = (): Promise<void> => new Promise(() => {});
const failedAt = { seconds: 1n, nanos: 0 };

describe("a task that the peer has already", () => {
  it("is fetched by SyncPieces, the whole or a range", async () => {
    const { downloader } = downloaderOf(stockPeer(every, ends));
    const pieces = await all(await downloader.downloadTask(addr, source));
    assert.deepEqual(
      pieces.map(({ number }) => number),
      every,
    );
    for (const { offset, length, content: bytes } of pieces)
      assert.deepEqual(bytes, content.subarray(offset, offset + length));
    const range = { start: 2500, end: 4001 };
    const some = await all(await downloader.downloadTask(addr, source, { range }));
    assert.deepEqual(
      some.map(({ number }) => number),
      [2, 3, 4],
    );
    await downloader.close();
  });

  it("fails with PieceNotFound, which lists the missing pieces, if SyncPieces ends early", async () => {
    const { downloader } = downloaderOf(stockPeer([0, 1, 4], ends));
    const failed = downloader.downloadTask(addr, source).then(all);
    const { message } = await assertRejects(failed, "PieceNotFound");
    assert.match(message, /lacks 2-3, 5-9$/);
    await downloader.close();
  });
});

describe("unknown lengths", () => {
  it("of 2^64 - 1 and size scope 4 are not lengths", async () => {
    const answers: Methods[] = [
      { statLocalTask: () => ({ contentLength: UNKNOWN, pieceLength: 4n }) },
      { statLocalTask: () => ({ contentLength: 4n, pieceLength: UNKNOWN }) },
      { statTask: () => ({ contentLength: UNKNOWN, pieceCount: 1 }) },
      { statTask: () => ({ contentLength: 4n, pieceCount: 1, sizeScope: 4 }) },
    ];
    for (const methods of answers) {
      const { downloader } = downloaderOf(methods);
      await assertRejects(downloader.statTask(addr, taskId), "NotFound");
      await downloader.close();
    }
  });

  it("at the start of DownloadTask leave the length undefined", async () => {
    const peer = stockPeer(every, ends);
    const { downloadPiece } = peer;
    assert.ok(downloadPiece);
    const sent = (numbers: readonly number[]): Methods => ({
      async *downloadTask(_request, context) {
        const value = { contentLength: UNKNOWN };
        const ids = { hostId: "h", taskId, peerId: "p" };
        yield { ...ids, response: { case: "downloadTaskStartedResponse", value } };
        for (const pieceNumber of numbers) {
          const request = { pieceNumber } as Parameters<typeof downloadPiece>[0];
          const { piece } = await downloadPiece(request, context);
          if (piece === undefined) continue;
          yield { ...ids, response: { case: "downloadPieceFinishedResponse", value: { piece } } };
        }
      },
    });
    const whole = downloaderOf({ ...peer, ...sent(every) });
    const task = await whole.downloader.downloadTask(addr, source);
    assert.equal(task.contentLength, undefined);
    assert.equal((await all(task)).length, 10);
    await whole.downloader.close();
    const cut = downloaderOf({ ...peer, ...sent([0, 2]) });
    await assertRejects(cut.downloader.downloadTask(addr, source).then(all), "TruncatedContent");
    await cut.downloader.close();
    const empty = downloaderOf({ ...peer, ...sent([]) });
    assert.equal((await all(await empty.downloader.downloadTask(addr, source))).length, 10);
    await empty.downloader.close();
  });
});

describe("a SyncPieces stream that stays open", () => {
  it("ends with NotFound after 10 s, once the task has failed at the peer", async () => {
    let asked = 0;
    const stat = () => ({ taskId, ...(++asked > 1 && { failedAt }) });
    const peer = stockPeer([0, 1], staysOpen, { statLocalTask: stat });
    const { downloader, clock } = downloaderOf(peer);
    const found: number[] = [];
    const synced = (async () => {
      const request = { taskId, hostId: "h", interestedPieceNumbers: every };
      for await (const { number } of downloader.syncPieces(addr, request)) found.push(number);
    })();
    const time = await clock.advanceUntil(assertRejects(synced, "NotFound"), 60_000);
    assert.deepEqual(found, [0, 1]);
    assert.equal(asked, 2);
    assert.ok(time >= 20_000 && time < 30_000, `${time} ms`);
    await downloader.close();
    assert.equal(clock.pending, 0);
  });

  it("fails with NotFound at once if the task had failed before", async () => {
    const fail = async (): Promise<never> => {
      throw new ConnectError(`task ${taskId} failed`, Code.Internal);
    };
    const peer = stockPeer([], fail, { statLocalTask: () => ({ taskId, failedAt }) });
    const { downloader } = downloaderOf(peer);
    const request = { taskId, hostId: "h", interestedPieceNumbers: every };
    await assertRejects(all(downloader.syncPieces(addr, request)), "NotFound");
    await downloader.close();
  });
});

describe("a task whose parents lack pieces", () => {
  /** Downloads over `methods` of each parent's directory, and resolves with the time it took. */
  function download(peers: Readonly<Record<string, Methods>>) {
    const clock = new FakeClock();
    const settings = downloaderSettings({}, fakeRuntime(clock));
    const directories = new Map(
      Object.entries(peers).map(([name, methods]) => {
        const binding = new MemoryGrpcBinding(scriptedPeer(methods));
        return [name, new GrpcDirectory(new GrpcDownloader(async () => binding, settings))];
      }),
    );
    const directory = (name: string): GrpcDirectory => directories.get(name) ?? assert.fail(name);
    const parents = new FakeParents(
      content,
      PIECE,
      Object.fromEntries(Object.keys(peers).map((name) => [name, honest()])),
      {
        directory: {
          stat: (name, id, options) => directory(name).stat(name, id, options),
          sync: (name, id, options) => directory(name).sync(name, id, options),
        },
      },
    );
    const fetcher = new TaskFetcher(parents, taskSettings({}, fakeRuntime(clock)));
    const list = Object.keys(peers).map((name) => ({ addr: name, apiAddr: name }));
    const to = memorySink();
    return { done: fetcher.downloadTask({ taskId, parents: list, to }), to, clock, parents };
  }

  it("fetches them from another parent", async () => {
    const { done, to, clock, parents } = download({
      "a:1": stockPeer([0, 1, 2], ends),
      "b:1": stockPeer(every, ends),
    });
    await clock.advanceUntil(done, 60_000);
    await done;
    assert.deepEqual(to.bytes(), content);
    assert.ok(parents.numbers("a:1").every((number) => number < 3));
  });

  it("fails with PieceNotFound, which lists the pieces, if no parent has them", async () => {
    const { done, clock } = download({
      "a:1": stockPeer([0, 1, 2], ends),
      "b:1": stockPeer([2, 5], ends),
    });
    const failed = assertRejects(done, "PieceNotFound");
    await clock.advanceUntil(failed, 60_000);
    assert.match((await failed).message, /^pieces 3-4, 6-9 cannot be fetched: /);
  });

  it("does not wait for a parent whose download of the task has failed", async () => {
    let asked = 0;
    const statLocalTask = () => ({
      taskId,
      contentLength: BigInt(content.length),
      pieceLength: BigInt(PIECE),
      ...(++asked > 1 && { failedAt }),
    });
    const { done, clock } = download({ "a:1": stockPeer([0, 1, 2], staysOpen, { statLocalTask }) });
    const failed = assertRejects(done, "PieceNotFound");
    const time = await clock.advanceUntil(failed, 360_000);
    assert.match((await failed).message, /^pieces 3-9 cannot be fetched/);
    assert.ok(time < 60_000, `${time} ms`);
  });
});

describe("misspelt options of the gRPC client", () => {
  it("fail with InvalidArgument and the name that was probably meant", async () => {
    const { downloader } = downloaderOf(stockPeer(every, ends));
    const request = { taskId, hostId: "h" };
    const misspelt = { singal: 1, stallTimout: 2 } as object;
    const misspeltRequest = { ...request, taskID: taskId } as typeof request;
    for (const [failed, hint] of [
      [downloader.downloadTask(addr, source, misspelt), /did you mean "signal"/],
      [all(downloader.syncPieces(addr, request, misspelt)), /did you mean "signal"/],
      [all(downloader.syncPieces(addr, misspeltRequest)), /did you mean "taskId"/],
    ] as const)
      assert.match((await assertRejects(failed, "InvalidArgument")).message, hint);
    const tsl = { tsl: {} } as object;
    assert.match(assertThrows(() => grpcBinding(tsl), "InvalidArgument").message, /"tsl"/);
    await downloader.close();
  });

  it("count as absent if they are undefined", async () => {
    const { downloader } = downloaderOf(stockPeer(every, ends));
    const call = {
      signal: undefined,
      pieceTimeout: undefined,
      stallTimeout: undefined,
      unreadTimeout: undefined,
    };
    const options = { ...call, range: undefined, unverifiedPieces: undefined };
    assert.equal((await all(await downloader.downloadTask(addr, source, options))).length, 10);
    const request = {
      taskId,
      hostId: "h",
      kind: undefined,
      interestedPieceNumbers: every,
      contentLength: undefined,
      pieceLength: undefined,
    };
    assert.equal((await all(downloader.syncPieces(addr, request, call))).length, 10);
    await downloader.close();
  });
});

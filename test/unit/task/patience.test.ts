/** Tasks whose parents fail and recover. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type ErrorCode, VortexError } from "../../../src/errors.ts";
import type { PieceLocation, TaskDirectory, TaskOutline } from "../../../src/task/discovery.ts";
import { memorySink } from "../../../src/task/memory-sink.ts";
import type { TaskSettings } from "../../../src/task/source.ts";
import type { TaskEvent } from "../../../src/task/task.ts";
import { rejectionOf } from "../../support/failures.ts";
import { fakeRuntime, settle } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";
import {
  type Behaviour,
  corrupt,
  FakeParents,
  failing,
  fetcherOf,
  honest,
  taskId,
  taskSettings,
} from "../../support/task-parents.ts";

const PIECE = 4096;
const content = seededBytes(7, 20 * PIECE + 123);

/** Returns a fetcher over parents whose behaviour depends on the seconds since the start. */
function bench(
  behaviours: Readonly<Record<string, (second: number) => Behaviour>>,
  options: {
    readonly settings?: Partial<TaskSettings>;
    readonly directory?: (now: () => number) => TaskDirectory;
  } = {},
) {
  const runtime = fakeRuntime();
  const { clock } = runtime;
  const start = clock.now();
  const second = (): number => (clock.now() - start) / 1000;
  const dynamic = Object.fromEntries(
    Object.entries(behaviours).map(([addr, at]): [string, Behaviour] => [
      addr,
      (request) => at(second())(request),
    ]),
  );
  const directory = options.directory?.(second);
  const parents = new FakeParents(content, PIECE, dynamic, directory && { directory });
  const { fetcher, request } = fetcherOf(
    parents,
    Object.keys(behaviours),
    taskSettings(options.settings, runtime),
  );
  const events: TaskEvent[] = [];
  const onEvent = (event: TaskEvent): void => void events.push(event);
  return { clock, second, parents, fetcher, request, events, onEvent };
}

const down = failing("ConnectionRefused");

describe("patience with the last parents", () => {
  for (const seconds of [3, 30, 58]) {
    it(`waits for the only parent, down for ${seconds} s from the start, reports it, and resumes within 5 s`, async () => {
      const { clock, fetcher, request, second, events, onEvent } = bench({
        "a:1": (at) => (at < seconds ? down : honest()),
      });
      const to = memorySink();
      const download = fetcher.downloadTask({ ...request, to, onEvent });
      await clock.advance(seconds * 1000 - 100);
      if (seconds > 5) {
        const { patienceLeft, parents } = download.progress();
        // The parent is excluded after about 3 s.
        assert.ok(
          patienceLeft !== undefined && patienceLeft > (60 - seconds) * 1000,
          `${patienceLeft} ms`,
        );
        assert.ok(patienceLeft <= (64 - seconds) * 1000, `${patienceLeft} ms`);
        assert.equal(parents[0]?.state, "excluded");
      }
      await clock.advanceUntil(download, 10_000, 10);
      await download;
      assert.ok(second() <= seconds + 5.1, `done after ${second()} s`);
      assert.deepEqual(Buffer.compare(to.bytes(), content), 0);
      assert.equal(download.progress().patienceLeft, undefined);
      const states = events.flatMap(({ type }) => (type.startsWith("parent-") ? [type] : []));
      assert.deepEqual(states, ["parent-excluded", "parent-restored"]);
    });
  }

  it("fails if no parent recovers in time, and not before, with the reason of each", async () => {
    for (const [patience, least, most] of [
      [undefined, 61, 66],
      [10_000, 11, 16],
      [600_000, 601, 606],
      [0, 1.5, 4],
    ] as const) {
      const { clock, fetcher, request, second } = bench({
        "a:1": () => down,
        "b:1": () => failing("Unreachable"),
      });
      const options = patience === undefined ? {} : { patience };
      const download = fetcher.downloadTask({ ...request, to: memorySink(), ...options });
      await clock.advanceUntil(download, 1_000_000, 50);
      const error = await rejectionOf(download);
      assert.ok(second() >= least && second() <= most, `${second()} s with ${patience}`);
      assert.equal(error.code, "Unreachable");
      assert.match(error.message, /a:1: ConnectionRefused.*b:1: Unreachable/);
      const lost = new RegExp(
        `no parent recovered within the patience of ${patience ?? 60_000} ms`,
      );
      assert.equal(lost.test(error.message), patience !== 0);
      assert.equal(clock.pending, 0);
    }
  });

  it("defaults to that of the downloader", async () => {
    const { clock, fetcher, request, second } = bench(
      { "a:1": () => down },
      { settings: { patience: 20_000 } },
    );
    const done = fetcher.downloadTask({ ...request, to: memorySink() });
    await clock.advanceUntil(done, 1_000_000, 50);
    await rejectionOf(done);
    assert.ok(second() >= 20 && second() <= 26, `${second()} s`);
  });

  for (const sends of [0, 1, 300]) {
    it(`does not wait forever for parents that repeatedly send ${sends} bytes and fall silent`, async () => {
      const silent: Behaviour = async function* ({ bytes }) {
        if (sends > 0) yield bytes.subarray(0, sends);
        if (sends > 0) yield bytes.subarray(sends, sends + 1);
        await new Promise<void>((resolve) => void clock.setTimer(resolve, 30_000));
        throw new VortexError("Stalled", "no byte came");
      };
      const made = bench({ "a:1": () => silent, "b:1": () => silent });
      const { clock, fetcher, request, second } = made;
      const done = fetcher.downloadTask({ ...request, to: memorySink() });
      await clock.advanceUntil(done, 10_000_000, 1000);
      assert.equal((await rejectionOf(done)).code, "Stalled");
      // Each attempt takes 30 s, and received bytes restart the patience five times.
      assert.ok(second() > 150 && second() < (sends === 0 ? 400 : 1500), `${second()} s`);
    });
  }

  it("restarts with the last byte, so a parent that breaks off late in a piece is waited for again", async () => {
    // Bytes arrive for a while, then nothing for 40 s; three times.
    const { clock, fetcher, request, second } = bench({
      "a:1": (at) => {
        if (at >= 130) return honest();
        if (at % 45 > 40) return breaking;
        return down;
      },
    });
    const done = fetcher.downloadTask({ ...request, to: memorySink() });
    await clock.advanceUntil(done, 1_000_000, 100);
    await done;
    assert.ok(second() >= 130 && second() < 140, `${second()} s`);
  });

  it("never applies to a parent that sent wrong bytes, however long the task lasts", async () => {
    const { clock, fetcher, request, parents } = bench({
      "wrong:1": () => corrupt,
      "slow:1": (at) => (at < 50 ? down : honest()),
    });
    const done = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      concurrentPieceCount: 2,
    });
    await clock.advance(1000);
    const asked = parents.numbers("wrong:1").length;
    await clock.advanceUntil(done, 1_000_000, 100);
    const report = await done;
    assert.equal(parents.numbers("wrong:1").length, asked);
    assert.deepEqual(
      report.parents.map(({ state }) => state),
      ["excluded", "active"],
    );
  });

  for (const code of [
    "DigestMismatch",
    "HandshakeFailed",
    "Unavailable",
    "RemoteUnimplemented",
    "NotFound",
  ] as const) {
    it(`does not apply to ${code} of the only parent`, async () => {
      const { clock, fetcher, request, second } = bench({ "a:1": () => failing(code) });
      const done = fetcher.downloadTask({ ...request, to: memorySink() });
      await clock.advanceUntil(done, 1_000_000, 50);
      assert.equal((await rejectionOf(done)).code, code);
      assert.ok(second() < 5, `${second()} s`);
    });
  }

  it("includes one more probe of each parent after a longer pause of the task", async () => {
    const { clock, fetcher, request, parents } = bench({
      "a:1": (at) => (at < 500 ? down : honest()),
    });
    const download = fetcher.downloadTask({ ...request, to: memorySink() });
    await clock.advance(20_000);
    download.pause();
    const before = parents.asked.length;
    await clock.advance(500_000);
    assert.equal(parents.asked.length, before);
    download.resume();
    await clock.advanceUntil(download, 60_000, 100);
    await download;
  });
});

/** Sends part of a piece, then loses the connection. */
const breaking: Behaviour = async function* ({ bytes }) {
  yield bytes.subarray(0, 100);
  yield bytes.subarray(100, 200);
  throw new VortexError("ConnectionLost", "lost");
};

describe("patience with parents that announce their pieces", () => {
  const outline: TaskOutline = {
    contentLength: content.length,
    pieceLength: PIECE,
    pieceCount: 21,
  };

  /** Returns a directory of parents that fail until a given second, and answer from then on. */
  function directoryOf(
    parents: Readonly<
      Record<string, { readonly from?: number; readonly until?: number; readonly code?: ErrorCode }>
    >,
  ): (now: () => number) => TaskDirectory & { readonly asked: [what: string, second: number][] } {
    return (now) => {
      const asked: [string, number][] = [];
      const answer = (what: string, addr: string): void => {
        asked.push([what, now()]);
        const {
          from = 0,
          until = Number.POSITIVE_INFINITY,
          code = "ConnectionRefused",
        } = parents[addr] ?? {};
        if (now() < from || now() >= until) throw new VortexError(code, `${addr} answers ${code}`);
      };
      return {
        asked,
        async stat(addr) {
          answer("stat", addr);
          return outline;
        },
        async *sync(addr): AsyncIterable<PieceLocation> {
          for (let number = 0; number < 21; number++) {
            answer("sync", addr);
            const length = Math.min(PIECE, content.length - number * PIECE);
            yield { number, offset: number * PIECE, length, tcpAddr: "data:1" };
          }
        },
      };
    };
  }

  it("covers the only parent that knows the length, down for 50 s, and the remaining time is reported", async () => {
    const { clock, fetcher, request, second } = bench(
      { "a:1": (at) => (at < 50 ? down : honest()) },
      { directory: directoryOf({ "a:4000": { from: 50 } }) },
    );
    const { hostId, parents } = request;
    const to = memorySink();
    const download = fetcher.downloadTask({ taskId, hostId, parents, to });
    await clock.advance(40_000);
    const { patienceLeft, totalBytes } = download.progress();
    assert.equal(totalBytes, undefined);
    assert.ok(
      patienceLeft !== undefined && Math.abs(patienceLeft - 20_000) <= 100,
      `${patienceLeft} ms`,
    );
    await clock.advanceUntil(download, 60_000, 10);
    await download;
    assert.ok(second() >= 50 && second() <= 60, `${second()} s`);
    assert.equal(Buffer.compare(to.bytes(), content), 0);
  });

  it("of 0, or a parent that cannot recover, leads to a single question", async () => {
    for (const [code, patience, asked, seconds] of [
      ["ConnectionRefused", 0, 1, 0],
      ["NotFound", 60_000, 1, 0],
      ["HandshakeFailed", 60_000, 1, 0],
      ["ConnectionRefused", 10_000, 9, 10],
    ] as const) {
      const directory = directoryOf({ "a:4000": { from: 1e9, code } });
      const made = bench({ "a:1": () => honest() }, { directory });
      const { hostId, parents } = made.request;
      const done = made.fetcher.downloadTask({
        taskId,
        hostId,
        parents,
        to: memorySink(),
        patience,
      });
      await made.clock.advanceUntil(done, 100_000, 10);
      assert.equal((await rejectionOf(done)).code, code);
      const { asked: all } = made.parents.directory as ReturnType<ReturnType<typeof directoryOf>>;
      assert.ok(all.length >= Math.min(asked, 5) && all.length <= asked, `${all.length} times`);
      assert.ok(Math.abs(made.second() - seconds) < 0.1, `${made.second()} s`);
      assert.equal(made.clock.pending, 0);
    }
  });

  it("is not reported while another parent is still being asked", async () => {
    const { clock, fetcher, request, parents } = bench(
      { "a:1": () => down, "b:1": () => down },
      { directory: directoryOf({ "a:4000": { from: 1e9 } }) },
    );
    const { directory } = parents;
    assert.ok(directory);
    const { stat } = directory;
    directory.stat = (addr, ...rest) =>
      addr === "b:4000" ? new Promise(() => {}) : stat(addr, ...rest);
    const { hostId, parents: addrs } = request;
    const { signal, abort } = (() => {
      const own = new AbortController();
      return { signal: own.signal, abort: () => own.abort() };
    })();
    const download = fetcher.downloadTask({
      taskId,
      hostId,
      parents: addrs,
      to: memorySink(),
      signal,
    });
    await clock.advance(10_000);
    assert.equal(download.progress().patienceLeft, undefined);
    abort();
    void download.catch(() => {});
    await settle();
  });

  it("ends with the answer of another parent, and a parent without an answer is assumed to have all pieces", async () => {
    const { clock, fetcher, request, second, parents } = bench(
      { "a:1": () => honest(), "b:1": () => down },
      { directory: directoryOf({ "a:4000": { from: 1e9 }, "b:4000": {} }) },
    );
    const { hostId, parents: addrs } = request;
    const done = fetcher.downloadTask({ taskId, hostId, parents: addrs, to: memorySink() });
    await clock.advanceUntil(done, 60_000, 10);
    await done;
    assert.ok(second() < 5, `${second()} s`);
    assert.equal(new Set(parents.numbers("a:1")).size, 21);
  });

  it("covers interrupted announcements, and pieces announced later are fetched", async () => {
    const { clock, fetcher, request, second } = bench(
      { "data:1": () => honest() },
      { directory: directoryOf({ "api:1": { from: 45 } }) },
    );
    const { hostId, contentLength, pieceLength } = request as {
      hostId: string;
      contentLength: number;
      pieceLength: number;
    };
    const parents = [{ apiAddr: "api:1" }];
    const download = fetcher.downloadTask({
      taskId,
      hostId,
      contentLength,
      pieceLength,
      parents,
      to: memorySink(),
    });
    await clock.advance(40_000);
    const { patienceLeft = 0 } = download.progress();
    assert.ok(patienceLeft > 20_000 && patienceLeft < 25_000, `${patienceLeft} ms`);
    await clock.advanceUntil(download, 60_000, 10);
    await download;
    assert.ok(second() >= 45 && second() < 51, `${second()} s`);
  });

  it("ends the task if interrupted announcements do not resume", async () => {
    const { clock, fetcher, request, second } = bench(
      { "data:1": () => honest() },
      { directory: directoryOf({ "api:1": { from: 1e9 } }) },
    );
    const { hostId, contentLength, pieceLength } = request as {
      hostId: string;
      contentLength: number;
      pieceLength: number;
    };
    const done = fetcher.downloadTask({
      taskId,
      hostId,
      contentLength,
      pieceLength,
      parents: [{ apiAddr: "api:1" }],
      to: memorySink(),
    });
    await clock.advanceUntil(done, 600_000, 10);
    const error = await rejectionOf(done);
    assert.match(error.message, /api:1.*ConnectionRefused/);
    assert.ok(second() >= 60 && second() < 66, `${second()} s`);
  });

  it("does not apply to a parent without the task, which is asked every 30 s and used once it has it", async () => {
    const { clock, fetcher, request, second, parents, events, onEvent } = bench(
      { "a:1": (at) => (at < 20 ? down : failing("NotFound")), "data:1": () => honest() },
      { directory: directoryOf({ "b:1": { from: 40, code: "NotFound" } }) },
    );
    const { hostId, contentLength, pieceLength } = request as {
      hostId: string;
      contentLength: number;
      pieceLength: number;
    };
    parents.behave("a:1", () => new VortexError("ConnectionRefused", "down"));
    const done = fetcher.downloadTask({
      taskId,
      hostId,
      contentLength,
      pieceLength,
      parents: ["a:1", { apiAddr: "b:1" }],
      to: memorySink(),
      patience: 120_000,
      onEvent,
    });
    await clock.advanceUntil(done, 600_000, 10);
    await done;
    assert.ok(second() >= 60 && second() < 61, `${second()} s`);
    assert.ok(events.some((event) => event.type === "parent-excluded" && event.parent === "b:1"));
    assert.ok(events.some((event) => event.type === "parent-restored" && event.parent === "b:1"));
  });
});

/**
 * Thresholds of the scheduler: hedged attempts, blame, resumed pieces, room and slots, patience.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { VortexError } from "../../../src/errors.ts";
import type { RouteState } from "../../../src/task/route.ts";
import {
  type Attempt,
  Scheduler,
  type SchedulerOptions,
  type Step,
} from "../../../src/task/scheduler.ts";

const LENGTH = 1_000_000;
const lost = new VortexError("ConnectionLost", "lost");

function schedulerOf(pieces: number, options: Partial<SchedulerOptions> = {}): Scheduler {
  return new Scheduler({
    first: 0,
    last: pieces - 1,
    lengthOf: () => LENGTH,
    concurrentPieceCount: 2,
    pieceTimeout: 360_000,
    stallThreshold: 100_000,
    announceTimeout: 60_000,
    patience: 60_000,
    random: () => 1,
    ...options,
  });
}

function step(scheduler: Scheduler, now: number): Step {
  return scheduler.step(now, { hasRoom: () => true, takeSlot: () => true });
}

function shape({ starts }: Step): string[] {
  return starts.map(({ number, routeId, isHedge }) => `${number}${isHedge ? "!" : "@"}${routeId}`);
}

/** Delivers a piece at a constant rate. */
function deliver(
  scheduler: Scheduler,
  { id }: Attempt,
  from: number,
  milliseconds: number,
): readonly Attempt[] {
  for (let part = 1; part <= 10; part++)
    scheduler.arrived(id, LENGTH / 10, from + (part * milliseconds) / 10);
  return scheduler.succeeded(id, from + milliseconds);
}

/** Starts two attempts. "a" has delivered in 500 ms; the remaining piece is in flight at "b". */
function withSlow(
  pieces: number,
  options: Partial<SchedulerOptions> = {},
): { scheduler: Scheduler; slow: Attempt } {
  const scheduler = schedulerOf(pieces, options);
  scheduler.addRoute("a", false);
  scheduler.addRoute("b", false);
  const [fast, slow] = step(scheduler, 0).starts;
  assert.ok(fast && slow);
  // Without latency, the pace covers all of the wait time.
  scheduler.arrived(slow.id, 1, 0);
  scheduler.arrived(slow.id, 1, 400);
  deliver(scheduler, fast, 0, 500);
  return { scheduler, slow };
}

describe("hedging a slow piece", () => {
  it("near the end, starts when the rest takes 1.5 times as long as the whole piece from an idle parent, plus 100 ms", () => {
    for (const [bytes, isHedged] of [
      [541_000, false],
      [540_000, true],
    ] as const) {
      const { scheduler, slow } = withSlow(2);
      scheduler.arrived(slow.id, bytes - 2, 1000);
      assert.deepEqual(shape(step(scheduler, 1000)), isHedged ? ["1!a"] : []);
    }
  });

  it("before the end, starts when the rest takes four times as long, plus 100 ms, by the queue of the other parent", () => {
    for (const [bytes, at, isHedged] of [
      [197_000, 1000, false],
      [195_000, 1000, true],
      [1000, 999, false],
      [1000, 1000, true],
    ] as const) {
      const { scheduler, slow } = withSlow(3);
      assert.deepEqual(shape(step(scheduler, 500)), ["2@a"]);
      scheduler.arrived(slow.id, bytes - 2, at);
      assert.deepEqual(
        shape(step(scheduler, at)),
        isHedged ? ["1!a"] : [],
        `${bytes} bytes at ${at} ms`,
      );
    }
  });

  it("counts silence as remaining time, and checks once a second", () => {
    const { scheduler, slow } = withSlow(2);
    scheduler.arrived(slow.id, 990_000, 500);
    const first = step(scheduler, 500);
    assert.deepEqual([first.starts, first.wakeAt], [[], 1500]);
    assert.deepEqual(shape(step(scheduler, 1350)), []);
    assert.deepEqual(shape(step(scheduler, 1351)), ["1!a"]);
  });

  it("counts local delays neither as silence nor as wait time", () => {
    const { scheduler, slow } = withSlow(2);
    scheduler.arrived(slow.id, 990_000, 500);
    scheduler.setWaiting(slow.id, false, 510);
    scheduler.setWaiting(slow.id, false, 600);
    assert.deepEqual(shape(step(scheduler, 5000)), []);
    scheduler.setWaiting(slow.id, true, 5000);
    scheduler.setWaiting(slow.id, true, 5500);
    assert.deepEqual(shape(step(scheduler, 5850)), []);
    assert.deepEqual(shape(step(scheduler, 5851)), ["1!a"]);
  });

  it("starts for a piece without a byte after 1.5 times the time that another parent takes for all of it", () => {
    const scheduler = schedulerOf(2);
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [fast] = step(scheduler, 0).starts;
    assert.ok(fast);
    deliver(scheduler, fast, 0, 500);
    assert.deepEqual(shape(step(scheduler, 850)), []);
    assert.deepEqual(shape(step(scheduler, 851)), ["1!a"]);
  });

  it("uses the pace of the last 5 s if it is slower: most bytes at once, then one byte per second", () => {
    const { scheduler, slow } = withSlow(2);
    scheduler.arrived(slow.id, 950_000, 500);
    let hedgedAt: number | undefined;
    for (let now = 1000; hedgedAt === undefined && now <= 20_000; now += 500) {
      if (now % 1000 === 0) scheduler.arrived(slow.id, 1, now);
      if (step(scheduler, now).starts.length > 0) hedgedAt = now;
    }
    // The first window, up to 5 s, includes the fast bytes; the second one shows the slow pace.
    assert.equal(hedgedAt, 10_000);
  });

  it("measures the pace in windows of 5 s of wait time, from the first byte on", () => {
    const scheduler = schedulerOf(2);
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [fast, slow] = step(scheduler, 0).starts;
    assert.ok(fast && slow);
    deliver(scheduler, fast, 0, 500);
    // The latency of 400 ms is not part of the window.
    scheduler.arrived(slow.id, 500_000, 400);
    scheduler.arrived(slow.id, 450_000, 800);
    let hedgedAt: number | undefined;
    for (let now = 1000; hedgedAt === undefined && now <= 20_000; now += 100) {
      scheduler.arrived(slow.id, 1, now);
      if (step(scheduler, now).starts.length > 0) hedgedAt = now;
    }
    assert.equal(hedgedAt, 10_400);
  });

  it("is limited to 64 MiB in all, except that one hedged attempt is always allowed", () => {
    for (const [mebibytes, hedges] of [
      [100, 1],
      [33, 1],
      [32, 2],
      [16, 4],
    ] as const) {
      const lengthOf = (): number => mebibytes * 1024 * 1024;
      const scheduler = schedulerOf(5, { lengthOf, concurrentPieceCount: 5, stallThreshold: 1000 });
      for (const id of ["a", "b", "c", "d", "e"]) scheduler.addRoute(id, false);
      assert.equal(step(scheduler, 0).starts.length, 5);
      for (const id of ["f", "g", "h", "i", "j"]) scheduler.addRoute(id, false);
      const first = step(scheduler, 1000).starts.length;
      const then = step(scheduler, 1001).starts.length;
      assert.deepEqual([first, then], [hedges, 0], `${mebibytes} MiB`);
    }
  });

  it("takes stalled pieces before slow ones, and slow ones with the longest remaining time first", () => {
    const scheduler = schedulerOf(4, {
      concurrentPieceCount: 4,
      maxHedgeBytes: 1,
      stallThreshold: 3000,
    });
    for (const id of ["a", "b", "c", "d"]) scheduler.addRoute(id, false);
    const [fast, stalls, slow, slower] = step(scheduler, 0).starts;
    assert.ok(fast && stalls && slow && slower);
    deliver(scheduler, fast, 0, 500);
    for (let now = 100; now <= 2500; now += 100) {
      scheduler.arrived(slow.id, 200, now);
      scheduler.arrived(slower.id, 100, now);
    }
    // One hedged attempt at a time, for the slowest piece first.
    assert.deepEqual(shape(step(scheduler, 2500)), ["3!a"]);
    const again = schedulerOf(4, {
      concurrentPieceCount: 4,
      maxHedgeBytes: 1,
      stallThreshold: 3000,
    });
    for (const id of ["a", "b", "c", "d"]) again.addRoute(id, false);
    const [quick, one, two, three] = step(again, 0).starts;
    assert.ok(quick && one && two && three);
    deliver(again, quick, 0, 500);
    for (let now = 100; now <= 2900; now += 100) {
      again.arrived(two.id, 100, now);
      again.arrived(three.id, 200, now);
    }
    again.arrived(one.id, 100_000, 100);
    assert.deepEqual(shape(step(again, 2950)), ["2!a"]);
  });

  it("prefers a stalled piece to one with a longer remaining time", () => {
    const scheduler = schedulerOf(3, {
      concurrentPieceCount: 3,
      maxHedgeBytes: 1,
      stallThreshold: 3000,
    });
    for (const id of ["a", "b", "c"]) scheduler.addRoute(id, false);
    const [fast, stalls, slow] = step(scheduler, 0).starts;
    assert.ok(fast && stalls && slow);
    scheduler.arrived(stalls.id, 900_000, 100);
    for (let now = 100; now <= 3100; now += 100) scheduler.arrived(slow.id, 1, now);
    deliver(scheduler, fast, 2600, 500);
    assert.deepEqual(shape(step(scheduler, 3100)), ["1!a"]);
  });

  it("uses a parent without a measured rate for stalled pieces only", () => {
    const scheduler = schedulerOf(1, { stallThreshold: 5000 });
    scheduler.addRoute("a", false);
    const [slow] = step(scheduler, 0).starts;
    assert.ok(slow);
    scheduler.addRoute("new", false);
    scheduler.arrived(slow.id, 1, 1);
    assert.deepEqual(shape(step(scheduler, 5000)), []);
    assert.deepEqual(shape(step(scheduler, 5001)), ["0!new"]);
  });

  it("needs a slot, and is tried again at the next check without one", () => {
    const { scheduler } = withSlow(2);
    const refusing = { hasRoom: () => true, takeSlot: () => false };
    assert.deepEqual(scheduler.step(2000, refusing).starts, []);
    assert.deepEqual(shape(step(scheduler, 2001)), ["1!a"]);
  });

  it("goes to the next parent if the first one has no slot", () => {
    const scheduler = schedulerOf(1, { stallThreshold: 5000 });
    for (const parent of ["a", "b", "c"]) scheduler.addRoute(parent, false);
    assert.deepEqual(shape(step(scheduler, 0)), ["0@a"]);
    const hedged: (number | undefined)[] = [];
    const { starts } = scheduler.step(5000, {
      hasRoom: () => true,
      takeSlot: (parent, attempt) => {
        hedged.push(attempt?.number);
        return parent === "c";
      },
    });
    assert.deepEqual(
      starts.map(({ number, routeId }) => `${number}!${routeId}`),
      ["0!c"],
    );
    assert.deepEqual(hedged, [0, 0], "the attempt that is hedged is passed to takeSlot");
  });

  it("prefers another parent to another route of a stalled one, which is the last choice", () => {
    const identities = [
      { parent: "a", protocol: "quic" },
      { parent: "a", protocol: "tcp" },
      { parent: "b", protocol: "tcp" },
    ] as const;
    for (const [count, expected] of [
      [3, "0!b (tcp)"],
      [2, "0!a (tcp)"],
    ] as const) {
      const scheduler = schedulerOf(1, { stallThreshold: 5000 });
      for (const identity of identities.slice(0, count)) scheduler.addRoute(identity, false);
      step(scheduler, 0);
      const [hedge] = step(scheduler, 5000).starts;
      assert.equal(`${hedge?.number}!${hedge?.parent} (${hedge?.protocol})`, expected);
    }
  });

  it("wakes for the next attempt that stalls", () => {
    const scheduler = schedulerOf(2, { stallThreshold: 300 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [one, two] = step(scheduler, 0).starts;
    assert.ok(one && two);
    scheduler.arrived(one.id, 1, 100);
    scheduler.arrived(two.id, 1, 50);
    assert.equal(step(scheduler, 200).wakeAt, 350);
  });

  it("schedules no checks for a task with a single route", () => {
    const scheduler = schedulerOf(2);
    scheduler.addRoute("a", false);
    assert.equal(step(scheduler, 0).wakeAt, undefined);
  });

  it("treats fewer allowed pieces in flight as the end, too", () => {
    const scheduler = schedulerOf(10, { concurrentPieceCount: 8 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const narrow = { hasRoom: () => true, takeSlot: () => true, maxPieces: 2 };
    const { starts } = scheduler.step(0, narrow);
    assert.deepEqual(shape({ starts, wakeAt: undefined, failure: undefined }), ["0@a", "1@b"]);
    const [fast, slow] = starts;
    assert.ok(fast && slow);
    scheduler.arrived(slow.id, 1, 0);
    scheduler.arrived(slow.id, 1, 400);
    deliver(scheduler, fast, 0, 500);
    const next = scheduler.step(500, narrow);
    assert.deepEqual(shape(next), ["2@a"]);
    scheduler.arrived(slow.id, 199_998, 1000);
    // By the rule for the end, the piece would be hedged.
    assert.deepEqual(scheduler.step(1000, narrow).starts, []);
  });
});

describe("the blame for a parent that lost to a hedged attempt", () => {
  /**
   * Returns the failures of a loser that is silent from `silent` on, with a winner that took from
   * 1000 to `at`.
   */
  function blamed(silent: number, at: number, options: Partial<SchedulerOptions> = {}): number {
    const scheduler = schedulerOf(1, { stallThreshold: 1000, ...options });
    const a = scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [loser] = step(scheduler, 0).starts;
    const [winner] = step(scheduler, 1000).starts;
    assert.ok(loser && winner);
    if (silent > 0) scheduler.arrived(loser.id, 1, silent);
    assert.deepEqual(
      scheduler.succeeded(winner.id, at).map(({ id }) => id),
      [loser.id],
    );
    assert.ok(scheduler.done);
    return a.failures;
  }

  it("applies after silence for as long as the winner took, plus 100 ms", () => {
    assert.deepEqual(
      [blamed(1100, 1600), blamed(1000, 1600), blamed(900, 1600), blamed(899, 1600)],
      [0, 0, 1, 1],
    );
  });

  it("applies after a stall", () => {
    assert.deepEqual([blamed(5000, 5999), blamed(5000, 6000), blamed(5001, 6000)], [0, 1, 0]);
  });

  it("does not apply to local delays", () => {
    const scheduler = schedulerOf(1, { stallThreshold: 1000 });
    const a = scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [loser] = step(scheduler, 0).starts;
    const [winner] = step(scheduler, 1000).starts;
    assert.ok(loser && winner);
    scheduler.setWaiting(loser.id, false, 1500);
    scheduler.succeeded(winner.id, 9000);
    assert.equal(a.failures, 0);
    assert.deepEqual([a.inFlight, scheduler.succeeded(loser.id, 9001)], [0, []]);
  });
});

describe("attempts that have ended", () => {
  it("ignore all further events", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 1 });
    const a = scheduler.addRoute("a", false);
    const [attempt] = step(scheduler, 0).starts;
    assert.ok(attempt);
    scheduler.answered(attempt.id, 30);
    assert.equal(a.latency, 30);
    scheduler.succeeded(attempt.id, 100);
    const before = [a.pieces, a.bytes, a.latency, a.failures, a.inFlight];
    scheduler.arrived(attempt.id, 5, 200);
    scheduler.setWaiting(attempt.id, false, 200);
    scheduler.answered(attempt.id, 500);
    assert.deepEqual(scheduler.failed(attempt.id, lost, "retry", 300), []);
    assert.deepEqual([a.pieces, a.bytes, a.latency, a.failures, a.inFlight], before);
  });

  it("leave their piece to the other attempt at it, and the last one queues it again", () => {
    const scheduler = schedulerOf(1, { stallThreshold: 1000 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [first] = step(scheduler, 0).starts;
    const [second] = step(scheduler, 1000).starts;
    assert.ok(first && second);
    scheduler.failed(first.id, lost, "retry", 1100);
    assert.deepEqual(shape(step(scheduler, 1100)), []);
    scheduler.failed(second.id, lost, "retry", 1200);
    assert.deepEqual(step(scheduler, 1200).wakeAt, 1350);
    assert.deepEqual(shape(step(scheduler, 1350)), ["0@a"]);
  });

  it("exclude local delays from the pace of their parent", () => {
    const scheduler = schedulerOf(2);
    const a = scheduler.addRoute("a", false);
    const [attempt] = step(scheduler, 0).starts;
    assert.ok(attempt);
    for (const { id } of [...scheduler.attempts])
      if (id !== attempt.id) scheduler.failed(id, lost, "missing", 0);
    scheduler.arrived(attempt.id, 100_000, 100);
    scheduler.setWaiting(attempt.id, false, 100);
    scheduler.setWaiting(attempt.id, true, 10_000);
    scheduler.arrived(attempt.id, 200_000, 10_200);
    assert.equal(a.rate, 1000);
  });
});

describe("pieces of an earlier download", () => {
  it("keep the task waiting while they are verified, and are then done or fetched", () => {
    const scheduler = schedulerOf(3, { patience: 0 });
    const none = scheduler.addRoute("none", true);
    none.endAnnouncements(false);
    for (const number of [0, 0, 2]) scheduler.beginVerification(number);
    assert.equal(step(scheduler, 0).failure, undefined);
    scheduler.endVerification(1, true);
    scheduler.endVerification(0, true);
    scheduler.endVerification(0, false);
    assert.equal(step(scheduler, 0).failure, undefined);
    scheduler.endVerification(2, false);
    assert.match(step(scheduler, 0).failure?.message ?? "", /^pieces 1-2 cannot be fetched/);
    none.announce(1);
    none.announce(2);
    assert.deepEqual(shape(step(scheduler, 0)), ["1@none", "2@none"]);
    // A piece in flight is not verified.
    scheduler.beginVerification(1);
    for (const { id } of [...scheduler.attempts]) scheduler.succeeded(id, 1);
    assert.ok(scheduler.done);
  });

  it("complete the task if all of them are intact", () => {
    const scheduler = schedulerOf(2);
    for (const number of [0, 1]) scheduler.beginVerification(number);
    scheduler.endVerification(0, true);
    assert.deepEqual([scheduler.done, scheduler.allInFlight], [false, false]);
    scheduler.endVerification(1, true);
    assert.deepEqual([scheduler.done, scheduler.allInFlight], [true, true]);
    assert.deepEqual(step(scheduler, 0), { starts: [], wakeAt: undefined, failure: undefined });
  });

  it("leave nothing to start while all other pieces are in flight", () => {
    const scheduler = schedulerOf(2);
    scheduler.addRoute("a", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    assert.equal(scheduler.allInFlight, true);
    scheduler.failed(first.id, lost, "retry", 1);
    assert.equal(scheduler.allInFlight, false);
  });
});

describe("room and slots", () => {
  it("keep the task alive if the first queued piece waits for room, but not if only later ones do", () => {
    const scheduler = schedulerOf(2, { patience: 0 });
    scheduler.addRoute("a", false);
    const full = scheduler.step(0, { hasRoom: () => false, takeSlot: () => true });
    assert.deepEqual(full, { starts: [], wakeAt: undefined, failure: undefined });
    const busy = scheduler.step(0, { hasRoom: () => true, takeSlot: () => false });
    assert.deepEqual(busy, { starts: [], wakeAt: undefined, failure: undefined });
  });

  it("skip a parent without a slot for the next best one", () => {
    const scheduler = schedulerOf(4, { concurrentPieceCount: 2 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const { starts } = scheduler.step(0, {
      hasRoom: () => true,
      takeSlot: (parent) => parent === "b",
    });
    assert.deepEqual(
      starts.map(({ number, routeId }) => `${number}@${routeId}`),
      ["0@b", "1@b"],
    );
  });
});

describe("a step", () => {
  /** Number of calls of `lengthOf` in a step of a task with many parents. */
  function callsInStep(takeSlot: (parent: string) => boolean): number {
    let calls = 0;
    const scheduler = new Scheduler({
      first: 0,
      last: 99_999,
      lengthOf: () => {
        calls++;
        return LENGTH;
      },
      concurrentPieceCount: 257,
      pieceTimeout: 360_000,
      stallThreshold: 7500,
      announceTimeout: 60_000,
      patience: 60_000,
      random: () => 1,
    });
    for (let parent = 0; parent < 100; parent++) scheduler.addRoute(`p${parent}`, false);
    const environment = { hasRoom: () => true, takeSlot };
    scheduler.step(0, environment);
    calls = 0;
    scheduler.step(1, environment);
    return calls;
  }

  it("visits few pieces if no parent takes a request", () => {
    const used = new Set<string>();
    const calls = callsInStep((parent) => !used.has(parent) && used.add(parent).size > 0);
    assert.equal(used.size, 100);
    assert.ok(calls < 1000, `${calls} calls`);
  });

  it("does not compare each attempt in flight with all routes and attempts", () => {
    const calls = callsInStep(() => true);
    assert.ok(calls < 2000, `${calls} calls`);
  });
});

describe("the best route of a parent", () => {
  it("is in regular use, not stalled, and has delivered bytes, as far as possible", () => {
    const scheduler = schedulerOf(4, { stallThreshold: 5000, concurrentPieceCount: 4 });
    const [quic, tcp] = (["quic", "tcp"] as const).map((protocol) =>
      scheduler.addRoute({ parent: "p", protocol }, false),
    );
    const best = (now: number): unknown => scheduler.bestRouteOf("p", 0, now)?.protocol;
    assert.equal(best(0), "quic");
    const { starts } = step(scheduler, 0);
    const overTcp = starts.find(({ protocol }) => protocol === "tcp");
    assert.ok(overTcp && quic && tcp);
    scheduler.arrived(overTcp.id, 1, 4000);
    assert.equal(best(4000), "tcp");
    quic.exclude("useless", 6000);
    tcp.exclude("banned", 6000);
    assert.equal(best(6000), undefined);
    assert.equal(scheduler.bestRouteOf("unknown", 0, 0), undefined);
  });
});

describe("routes of one parent", () => {
  const protocols = ["quic", "tcp"] as const;

  function both(): { scheduler: Scheduler; routes: readonly RouteState[] } {
    const scheduler = schedulerOf(20, { concurrentPieceCount: 6 });
    const routes = protocols.map((protocol) =>
      scheduler.addRoute({ parent: "p", protocol }, false),
    );
    scheduler.addRoute("other", false);
    return { scheduler, routes };
  }

  it("are banned together for wrong data, and all their attempts end", () => {
    const { scheduler, routes } = both();
    const { starts } = step(scheduler, 0);
    const [first] = starts;
    assert.ok(first);
    const over = scheduler.failed(first.id, new VortexError("DigestMismatch", "wrong"), "ban", 5);
    assert.deepEqual(
      over.map(({ id }) => id).sort((a, b) => a - b),
      starts.filter(({ parent, id }) => parent === "p" && id !== first.id).map(({ id }) => id),
    );
    assert.deepEqual(
      routes.map(({ exclusion }) => exclusion),
      ["banned", "banned"],
    );
    assert.deepEqual(
      routes.map(({ errors }) => errors),
      [1, 0],
    );
  });

  it("are excluded one by one for other failures", () => {
    for (const [code, verdict, as] of [
      ["HandshakeFailed", "ban", "banned"],
      ["RemoteUnimplemented", "exclude", "useless"],
    ] as const) {
      const { scheduler, routes } = both();
      const { starts } = step(scheduler, 0);
      const [first] = starts;
      assert.ok(first);
      const over = scheduler.failed(first.id, new VortexError(code, "no"), verdict, 5);
      assert.ok(over.every(({ routeId }) => routeId === first.routeId));
      assert.equal(
        over.length,
        starts.filter(({ routeId }) => routeId === first.routeId).length - 1,
      );
      assert.deepEqual(
        routes.map(({ exclusion }) => exclusion),
        [as, undefined],
      );
    }
  });

  it("keep a probe of one route running while another route fails", () => {
    const { scheduler, routes } = both();
    const [quic, tcp] = routes;
    assert.ok(quic && tcp);
    for (let at = 1; at <= 5; at++) quic.failed(lost, quic.failureEpoch, at, () => 1);
    const { starts } = step(scheduler, 4005);
    const probe = starts.find(({ routeId }) => routeId === quic.id);
    const beside = starts.find(({ routeId }) => routeId === tcp.id);
    assert.ok(probe && beside);
    assert.deepEqual(scheduler.failed(beside.id, lost, "retry", 4010), []);
    assert.deepEqual(scheduler.succeeded(probe.id, 4020), []);
    assert.equal(quic.exclusion, undefined);
  });

  it("reject an unknown ID as an internal error", () => {
    assert.throws(() => both().scheduler.route("nobody"), { code: "Internal" });
  });
});

describe("patience with the last parents", () => {
  /**
   * Returns a scheduler whose only parent is excluded at 5 ms, before its next probe at 4005 ms.
   */
  function withGone(options: Partial<SchedulerOptions> = {}): {
    scheduler: Scheduler;
    gone: RouteState;
  } {
    const scheduler = schedulerOf(3, { concurrentPieceCount: 1, ...options });
    const gone = scheduler.addRoute("gone", false);
    for (let at = 1; at <= 5; at++) gone.failed(lost, gone.failureEpoch, at, () => 1);
    return { scheduler, gone };
  }

  it("starts at their last failure, with probes every 5 s and at the end", () => {
    const { scheduler } = withGone();
    assert.equal(scheduler.patienceLeft(100), undefined);
    assert.deepEqual(step(scheduler, 100), { starts: [], wakeAt: 4005, failure: undefined });
    assert.deepEqual([scheduler.patienceLeft(100), scheduler.patienceLeft(90_000)], [59_905, 0]);
    const probes: number[] = [];
    let now = 4005;
    for (;;) {
      const { starts, wakeAt, failure } = step(scheduler, now);
      if (failure !== undefined) {
        assert.equal(failure.code, "ConnectionLost");
        assert.match(
          failure.message,
          /^piece 0 cannot be fetched, and no parent recovered within the patience of 60000 ms: gone: /,
        );
        break;
      }
      const [probe] = starts;
      if (probe !== undefined) {
        probes.push(now);
        scheduler.failed(probe.id, lost, "retry", now + 1);
        now++;
      } else {
        assert.ok(wakeAt !== undefined);
        now = wakeAt;
      }
    }
    assert.deepEqual(probes.slice(0, 4), [4005, 9006, 14_007, 19_008]);
    assert.deepEqual(probes.at(-1), 60_005);
    assert.equal(now, 60_006);
  });

  it("does not run while another parent may deliver, and excluded routes are never hedged with", () => {
    const { scheduler } = withGone({ stallThreshold: 1000, concurrentPieceCount: 3 });
    scheduler.addRoute("here", false);
    assert.deepEqual(shape(step(scheduler, 100)), ["0@here", "1@here", "2@here"]);
    assert.equal(scheduler.patienceLeft(100), undefined);
    assert.deepEqual(shape(step(scheduler, 50_000)), []);
    for (const { id } of [...scheduler.attempts]) scheduler.failed(id, lost, "retry", 50_000);
    assert.equal(scheduler.patienceLeft(50_000), undefined);
    assert.equal(
      step(scheduler, 50_000).starts.length,
      1,
      "the one that is gone is asked again by now",
    );
    assert.equal(scheduler.patienceLeft(50_000), undefined, "the other one is in a pause only");
  });

  it("does not run for parents that lack the remaining pieces", () => {
    const scheduler = schedulerOf(1);
    const gone = scheduler.addRoute("gone", true);
    gone.endAnnouncements(false);
    for (let at = 1; at <= 5; at++) gone.failed(lost, gone.failureEpoch, at, () => 1);
    assert.equal(step(scheduler, 100).failure?.code, "ConnectionLost");
  });

  it("does not run for useless parents, nor wait for their next probe", () => {
    const scheduler = schedulerOf(1);
    scheduler.addRoute("useless", false).exclude("useless", 0);
    assert.ok(step(scheduler, 1).failure);
    const { scheduler: other } = withGone({ patience: 20_000 });
    other.addRoute("useless", false).exclude("useless", 0);
    assert.equal(step(other, 100).wakeAt, 4005);
  });

  it("restarts with the first bytes of five probes, and a complete piece allows five more", () => {
    const { scheduler } = withGone({ patience: 10_000, stallThreshold: 1_000_000 });
    let now = 100;
    /**
     * Starts a probe that receives bytes and is lost 30 s later. Returns true if it restarted the
     * patience.
     */
    const probe = (): boolean => {
      let { starts, wakeAt, failure } = step(scheduler, now);
      assert.equal(failure, undefined);
      while (starts.length === 0) {
        assert.ok(wakeAt !== undefined && wakeAt > now, "it has not ended");
        now = wakeAt;
        ({ starts, wakeAt, failure } = step(scheduler, now));
        assert.equal(failure, undefined);
      }
      const [attempt] = starts;
      assert.ok(attempt);
      scheduler.arrived(attempt.id, 1, now + 10);
      scheduler.arrived(attempt.id, 1, now + 20);
      step(scheduler, now + 20);
      const relieved = scheduler.patienceLeft(now + 20) === undefined;
      now += 30_000;
      scheduler.failed(attempt.id, lost, "retry", now);
      return relieved;
    };
    assert.deepEqual([probe(), probe(), probe(), probe(), probe()], [true, true, true, true, true]);
    assert.equal(probe(), false);
    assert.ok(step(scheduler, now).failure, "the sixth one has ended after the patience");
  });

  it("ends with a complete piece, which allows five more restarts", () => {
    const { scheduler, gone } = withGone({ patience: 10_000 });
    let now = 4005;
    step(scheduler, 100);
    for (let round = 0; round < 4; round++) {
      const [attempt] = step(scheduler, now).starts;
      assert.ok(attempt);
      scheduler.arrived(attempt.id, 1, now);
      if (round === 2) scheduler.succeeded(attempt.id, now);
      else scheduler.failed(attempt.id, lost, "retry", now);
      if (round === 2)
        assert.deepEqual([gone.isExcluded, scheduler.patienceLeft(now)], [false, undefined]);
      if (round < 2) now = step(scheduler, now).wakeAt ?? 0;
    }
    assert.equal(gone.failures, 1);
  });

  it("covers interrupted announcements, until the next announcement", () => {
    const scheduler = schedulerOf(1, { announceTimeout: 1_000_000 });
    const route = scheduler.addRoute("a", true);
    route.interruptAnnouncements();
    assert.deepEqual(step(scheduler, 1000), { starts: [], wakeAt: 61_000, failure: undefined });
    assert.equal(scheduler.patienceLeft(11_000), 50_000);
    route.announce(0);
    assert.deepEqual(shape(step(scheduler, 60_000)), ["0@a"]);
    assert.equal(scheduler.patienceLeft(60_000), undefined);
    const other = schedulerOf(1);
    other.addRoute("a", true).interruptAnnouncements();
    step(other, 1000);
    assert.ok(step(other, 61_000).failure);
  });
});

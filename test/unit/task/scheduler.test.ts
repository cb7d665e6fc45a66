import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { type ErrorCode, VortexError } from "../../../src/errors.ts";
import { retryDecision } from "../../../src/task/retry-decision.ts";
import type { RouteState } from "../../../src/task/route.ts";
import {
  type Attempt,
  Scheduler,
  type SchedulerOptions,
  type Step,
} from "../../../src/task/scheduler.ts";
import { seededRandom } from "../../support/random.ts";

const LENGTH = 1_000_000;

function schedulerOf(pieces: number, options: Partial<SchedulerOptions> = {}): Scheduler {
  return new Scheduler({
    first: 0,
    last: pieces - 1,
    lengthOf: () => LENGTH,
    concurrentPieceCount: 8,
    pieceTimeout: 360_000,
    stallThreshold: 1000,
    announceTimeout: 60_000,
    patience: 0,
    random: () => 1,
    ...options,
  });
}

const anything = { hasRoom: () => true, takeSlot: () => true };

function step(scheduler: Scheduler, now: number): Step {
  return scheduler.step(now, anything);
}

function failure(code: ErrorCode): VortexError {
  return new VortexError(code, "as set");
}

function fail(
  scheduler: Scheduler,
  attempt: Attempt,
  code: ErrorCode,
  now: number,
): readonly Attempt[] {
  const error = failure(code);
  const verdict = retryDecision(error);
  assert.notEqual(verdict, "fatal");
  return scheduler.failed(attempt.id, error, verdict as "retry", now);
}

/** Fails a route a number of times, at 1 ms, 2 ms and so on. */
function failOften(route: RouteState, times: number): void {
  for (let at = 1; at <= times; at++)
    route.failed(failure("ConnectionLost"), route.failureEpoch, at, () => 1);
}

/** Delivers the piece of an attempt at a constant rate from its start. */
function deliver(
  scheduler: Scheduler,
  { id }: Attempt,
  from: number,
  milliseconds: number,
): readonly Attempt[] {
  scheduler.answered(id, from);
  for (let part = 1; part <= 10; part++)
    scheduler.arrived(id, LENGTH / 10, from + (part * milliseconds) / 10);
  return scheduler.succeeded(id, from + milliseconds);
}

function shape(attempts: readonly Attempt[]): string[] {
  return attempts.map(
    ({ number, routeId, isHedge }) => `${number}${isHedge ? "!" : "@"}${routeId}`,
  );
}

describe("assigning pieces to parents", () => {
  it("starts as many as allowed, in ascending order, spread over unmeasured parents", () => {
    const scheduler = schedulerOf(100);
    for (const id of ["a", "b", "c"]) scheduler.addRoute(id, false);
    const { starts } = step(scheduler, 0);
    assert.deepEqual(
      starts.map(({ number }) => number),
      [0, 1, 2, 3, 4, 5, 6, 7],
    );
    const counts = ["a", "b", "c"].map(
      (id) => starts.filter(({ routeId }) => routeId === id).length,
    );
    assert.deepEqual(counts, [3, 3, 2]);
    assert.deepEqual(step(scheduler, 0).starts, []);
  });

  it("gives a parent with twice the rate twice the pieces", () => {
    const scheduler = schedulerOf(1000, { concurrentPieceCount: 6 });
    scheduler.addRoute("fast", false);
    scheduler.addRoute("slow", false);
    // Each parent is limited by its own link, which its pieces in flight share.
    const rates = { fast: 2000, slow: 1000 };
    const running = new Map<number, { attempt: Attempt; left: number }>();
    const delivered = { fast: 0, slow: 0 };
    for (let now = 0; now < 60_000; now += 50) {
      for (const attempt of step(scheduler, now).starts) {
        if (!attempt.isHedge) running.set(attempt.id, { attempt, left: LENGTH });
      }
      for (const route of ["fast", "slow"] as const) {
        const mine = [...running.values()].filter(({ attempt }) => attempt.routeId === route);
        for (const one of mine) {
          const bytes = Math.min(one.left, (rates[route] * 50) / mine.length);
          one.left -= bytes;
          scheduler.arrived(one.attempt.id, bytes, now + 50);
          if (one.left > 0) continue;
          running.delete(one.attempt.id);
          delivered[route]++;
          for (const loser of scheduler.succeeded(one.attempt.id, now + 50))
            running.delete(loser.id);
        }
      }
    }
    const ratio = delivered.fast / delivered.slow;
    assert.ok(ratio > 1.6 && ratio < 2.5, `${delivered.fast} to ${delivered.slow}`);
  });

  it("starts no more at a slow parent than it delivers within half of the piece timeout, but at least one", () => {
    const scheduler = schedulerOf(100, { pieceTimeout: 10_000 });
    const slow = scheduler.addRoute("slow", false);
    const first = step(scheduler, 0).starts;
    assert.equal(first.length, 8, "nothing is known yet");
    // A piece takes 0.4 s, so twelve take 5 s; eight pieces in flight are allowed.
    for (const [at, { id }] of first.entries()) {
      scheduler.arrived(id, LENGTH, (at + 1) * 400);
      scheduler.succeeded(id, (at + 1) * 400);
    }
    assert.equal(step(scheduler, 3200).starts.length, 8);
    assert.ok(Math.abs((slow.rate ?? 0) - LENGTH / 400) < 1);
    for (const [pace, allowed] of [
      [1000, 5],
      [2400, 2],
      [6000, 1],
    ] as const) {
      const one = schedulerOf(100, { pieceTimeout: 10_000 });
      one.addRoute("slow", false);
      const [probe, ...others] = step(one, 0).starts;
      assert.ok(probe);
      one.arrived(probe.id, LENGTH, pace);
      one.succeeded(probe.id, pace);
      for (const { id } of others) one.failed(id, failure("NotFound"), "missing", pace);
      assert.equal(step(one, 20_000).starts.length, allowed, `${pace} ms a piece`);
    }
  });

  it("asks only the parents that announced a piece, and the others once they have announced it", () => {
    const scheduler = schedulerOf(3);
    const a = scheduler.addRoute("a", true);
    const b = scheduler.addRoute("b", true);
    assert.deepEqual(step(scheduler, 0).starts, []);
    b.announce(1);
    assert.deepEqual(shape(step(scheduler, 0).starts), ["1@b"]);
    a.announce(0);
    b.announce(2);
    assert.deepEqual(shape(step(scheduler, 0).starts), ["0@a", "2@b"]);
  });

  it("waits for room in the sink, and for slots", () => {
    const scheduler = schedulerOf(8);
    scheduler.addRoute("a", false);
    const admit = (): boolean => true;
    assert.deepEqual(
      shape(scheduler.step(0, { hasRoom: (number) => number < 2, takeSlot: admit }).starts),
      ["0@a", "1@a"],
    );
    let slots = 1;
    const tight = { hasRoom: () => true, takeSlot: () => slots-- > 0 };
    assert.deepEqual(shape(scheduler.step(0, tight).starts), ["2@a"]);
    const blocked = scheduler.step(0, { hasRoom: () => false, takeSlot: admit });
    assert.deepEqual([blocked.starts, blocked.failure], [[], undefined]);
  });

  it("asks another parent for a piece that one does not have, and the first one again later", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 1 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    deliver(scheduler, first, 0, 10);
    const [second] = step(scheduler, 10).starts;
    assert.ok(second);
    fail(scheduler, second, "NotFound", 20);
    const [third] = step(scheduler, 20).starts;
    assert.ok(third);
    assert.notEqual(third.routeId, second.routeId);
  });

  it("does not request a piece of an earlier download before it is verified", () => {
    const scheduler = schedulerOf(3);
    scheduler.addRoute("a", false);
    scheduler.beginVerification(0);
    scheduler.beginVerification(2);
    assert.deepEqual(shape(step(scheduler, 0).starts), ["1@a"]);
    scheduler.endVerification(0, true);
    assert.deepEqual(step(scheduler, 0).starts, []);
    scheduler.endVerification(2, false);
    assert.deepEqual(shape(step(scheduler, 0).starts), ["2@a"]);
  });
});

describe("stalled pieces and hedged attempts", () => {
  it("a stalled piece is requested from another parent; the first answer wins, and the stalled parent is blamed", () => {
    const scheduler = schedulerOf(1);
    const a = scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    assert.deepEqual(step(scheduler, 999).starts, []);
    const { starts } = step(scheduler, 1000);
    assert.deepEqual(shape(starts), ["0!b"]);
    assert.deepEqual(step(scheduler, 5000).starts, [], "never more than two");
    const [hedge] = starts;
    assert.ok(hedge);
    assert.deepEqual(shape(scheduler.succeeded(hedge.id, 6000)), ["0@a"]);
    assert.equal(a.reasons[0]?.code, "Stalled");
    assert.ok(scheduler.done);
  });

  it("a parent that recovers in time wins over the hedged attempt, and no parent is blamed", () => {
    const scheduler = schedulerOf(1);
    const a = scheduler.addRoute("a", false);
    const b = scheduler.addRoute("b", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    step(scheduler, 1000);
    scheduler.arrived(first.id, LENGTH, 1100);
    assert.deepEqual(shape(scheduler.succeeded(first.id, 1100)), ["0!b"]);
    assert.deepEqual([a.errors, b.errors], [0, 0]);
  });

  it("local delays do not count as a stall", () => {
    const scheduler = schedulerOf(1);
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    scheduler.setWaiting(first.id, false, 10);
    assert.deepEqual(step(scheduler, 50_000).starts, []);
    scheduler.setWaiting(first.id, true, 50_000);
    assert.deepEqual(step(scheduler, 50_900).starts, []);
    assert.deepEqual(shape(step(scheduler, 51_000).starts), ["0!b"]);
  });

  it("a piece is not hedged without another parent", () => {
    const scheduler = schedulerOf(1);
    scheduler.addRoute("a", false);
    step(scheduler, 0);
    assert.deepEqual(step(scheduler, 100_000).starts, []);
  });

  it("near the end, an idle parent hedges a slow piece", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 2 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [one, other] = step(scheduler, 0).starts;
    assert.ok(one && other);
    deliver(scheduler, one, 0, 500);
    // A tenth in half a second: four more seconds remain, and the other parent needs half a second.
    scheduler.arrived(other.id, LENGTH / 20, 10);
    scheduler.arrived(other.id, LENGTH / 20, 500);
    assert.deepEqual(shape(step(scheduler, 501).starts), [`${other.number}!${one.routeId}`]);
  });

  it("a piece that waited for its turn and has just started is not hedged", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 2 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [one, other] = step(scheduler, 0).starts;
    assert.ok(one && other);
    deliver(scheduler, one, 0, 500);
    scheduler.arrived(other.id, LENGTH / 100, 500);
    assert.deepEqual(step(scheduler, 501).starts, []);
    // From then on, the piece takes as long as it would from the other parent, which does not
    // justify fetching it twice.
    scheduler.arrived(other.id, LENGTH / 2, 700);
    assert.deepEqual(step(scheduler, 701).starts, []);
  });

  it("a piece whose parent falls silent after most of it is hedged by an idle parent", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 2 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [one, other] = step(scheduler, 0).starts;
    assert.ok(one && other);
    deliver(scheduler, one, 0, 500);
    scheduler.arrived(other.id, (LENGTH * 99) / 100, 500);
    assert.deepEqual(step(scheduler, 1000).starts, []);
    assert.deepEqual(shape(step(scheduler, 1500).starts), [`${other.number}!${one.routeId}`]);
  });

  it("a piece as fast as the others is not hedged", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 2 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [one, other] = step(scheduler, 0).starts;
    assert.ok(one && other);
    deliver(scheduler, one, 0, 500);
    scheduler.arrived(other.id, (LENGTH * 9) / 10, 500);
    assert.deepEqual(step(scheduler, 501).starts, []);
  });

  it("hedged attempts are limited in bytes, except that one is always allowed", () => {
    const scheduler = schedulerOf(4, { maxHedgeBytes: LENGTH / 2, concurrentPieceCount: 4 });
    const routes = ["a", "b", "c", "d"].map((id) => scheduler.addRoute(id, false));
    assert.equal(step(scheduler, 0).starts.length, 4);
    scheduler.addRoute("late", false);
    assert.equal(step(scheduler, 1000).starts.length, 1);
    assert.equal(step(scheduler, 2000).starts.length, 0);
    assert.equal(routes.length, 4);
  });
});

describe("failures", () => {
  it("a parent that fails is retried with a doubling pause, one request at a time, and then excluded", () => {
    const scheduler = schedulerOf(100, { concurrentPieceCount: 2 });
    const a = scheduler.addRoute("a", false);
    let now = 0;
    const pauses: number[] = [];
    for (;;) {
      const { starts, wakeAt, failure: last } = step(scheduler, now);
      if (last !== undefined) {
        assert.equal(last.code, "ConnectionRefused");
        assert.match(last.message, /piece 0 cannot be fetched: a: as set/);
        assert.deepEqual((last.cause as AggregateError).errors, a.reasons);
        break;
      }
      if (starts.length === 0) {
        assert.ok(wakeAt !== undefined && wakeAt > now);
        pauses.push(wakeAt - now);
        now = wakeAt;
      } else {
        assert.equal(starts.length, pauses.length === 0 ? 2 : 1);
        for (const attempt of starts) fail(scheduler, attempt, "ConnectionRefused", now);
      }
    }
    assert.deepEqual(pauses, [250, 500, 1000, 2000]);
    assert.ok(a.isExcluded);
  });

  it("a success resets the number of failures", () => {
    const scheduler = schedulerOf(100, { concurrentPieceCount: 1 });
    const a = scheduler.addRoute("a", false);
    let now = 0;
    for (let round = 0; round < 20; round++) {
      const [attempt] = step(scheduler, now).starts;
      assert.ok(attempt);
      if (round % 2 === 0) {
        fail(scheduler, attempt, "ConnectionLost", now);
        now += 250;
      } else {
        scheduler.succeeded(attempt.id, now);
      }
    }
    assert.equal(a.isExcluded, false);
    assert.equal(a.errors, 10);
    assert.equal(a.reasons.length, 1);
  });

  for (const code of [
    "DigestMismatch",
    "PieceMismatch",
    "InvalidPacket",
    "RemoteUnimplemented",
  ] as const) {
    it(`${code}: the parent is excluded at once, and its other pieces go to another parent`, () => {
      const scheduler = schedulerOf(8);
      const bad = scheduler.addRoute("bad", false);
      scheduler.addRoute("good", false);
      const { starts } = step(scheduler, 0);
      const [first, ...others] = starts.filter(({ routeId }) => routeId === "bad");
      assert.ok(first);
      assert.deepEqual(
        fail(scheduler, first, code, 10).map(({ id }) => id),
        others.map(({ id }) => id),
      );
      assert.ok(bad.isExcluded);
      const again = step(scheduler, 10).starts;
      assert.equal(again.length, 4);
      assert.ok(again.every(({ routeId }) => routeId === "good"));
    });
  }

  it("a truncated piece does not count as a wrong digest", () => {
    assert.equal(retryDecision(failure("TruncatedContent")), "retry");
  });

  it("a piece that no parent has fails the task after the rest is fetched, and the error names it and the parents", () => {
    const scheduler = schedulerOf(3, { concurrentPieceCount: 3 });
    const a = scheduler.addRoute("a", true);
    a.announce(0);
    a.announce(2);
    a.endAnnouncements(false);
    const { starts } = step(scheduler, 0);
    assert.deepEqual(shape(starts), ["0@a", "2@a"]);
    for (const { id } of starts) scheduler.succeeded(id, 10);
    const last = step(scheduler, 10).failure;
    assert.equal(last?.code, "PieceNotFound");
    assert.match(last?.message ?? "", /piece 1 cannot be fetched: a does not have it/);
  });

  it("a piece that no parent announces is waited for until a limit", () => {
    const scheduler = schedulerOf(2, { announceTimeout: 5000 });
    const a = scheduler.addRoute("a", true);
    a.announce(0);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    scheduler.succeeded(first.id, 1000);
    const waiting = step(scheduler, 1000);
    assert.deepEqual([waiting.wakeAt, waiting.failure], [6000, undefined]);
    assert.equal(step(scheduler, 6000).failure?.code, "Stalled");
  });

  it("the error names each parent if they failed differently", () => {
    const scheduler = schedulerOf(1);
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    fail(scheduler, first, "DigestMismatch", 0);
    const [second] = step(scheduler, 0).starts;
    assert.ok(second);
    fail(scheduler, second, "HandshakeFailed", 0);
    const last = step(scheduler, 0).failure;
    assert.equal(last?.code, "Unreachable");
    assert.match(last?.message ?? "", /a: DigestMismatch.*b: HandshakeFailed/);
  });

  it("a full sink does not keep the task waiting for a piece that no parent has", () => {
    const scheduler = schedulerOf(3);
    scheduler.addRoute("a", true).endAnnouncements(false);
    const environment = { hasRoom: (number: number) => number === 0, takeSlot: () => true };
    assert.equal(scheduler.step(0, environment).failure?.code, "PieceNotFound");
  });

  it("the error says so if there are no parents", () => {
    assert.match(step(schedulerOf(1), 0).failure?.message ?? "", /there is no parent/);
  });
});

/** Behaviour of a parent in the model. */
interface ModelParent {
  /** Probability of each outcome of an attempt. */
  readonly failing: number;
  readonly stalling: number;
  readonly wrong: boolean;
  /** Duration of an attempt in ms. */
  readonly delay: number;
  readonly announces: boolean;
}

const parent: fc.Arbitrary<ModelParent> = fc.record({
  failing: fc.constantFrom(0, 0.1, 0.6, 1),
  stalling: fc.constantFrom(0, 0, 0.2, 1),
  wrong: fc.boolean(),
  delay: fc.integer({ min: 1, max: 3000 }),
  announces: fc.boolean(),
});

describe("arbitrary parents", () => {
  it("every piece is completed once, no limit is exceeded, an honest parent is never excluded, and the task ends", () => {
    fc.assert(
      fc.property(
        fc.array(parent, { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 1, max: 10 }),
        fc.constantFrom(0, 60_000),
        fc.integer({ min: 0, max: 2 ** 31 }),
        (parents, pieces, concurrentPieceCount, patience, seed) => {
          runModel(parents, pieces, { concurrentPieceCount, patience }, seededRandom(seed));
        },
      ),
      { numRuns: 500, seed: 4711 },
    );
  });

  it("the task succeeds with one honest parent among them", () => {
    const honest: ModelParent = {
      failing: 0,
      stalling: 0,
      wrong: false,
      delay: 100,
      announces: false,
    };
    fc.assert(
      fc.property(
        fc.array(parent, { maxLength: 4 }),
        fc.integer({ min: 0, max: 2 ** 31 }),
        (parents, seed) => {
          const ended = runModel(
            [...parents, honest],
            30,
            { concurrentPieceCount: 8, patience: 0 },
            seededRandom(seed),
          );
          assert.equal(ended, "done");
        },
      ),
      { numRuns: 300, seed: 4712 },
    );
  });
});

/**
 * Runs a scheduler against parents with random behaviour, and checks its invariants at every step.
 */
function runModel(
  parents: readonly ModelParent[],
  pieces: number,
  options: { readonly concurrentPieceCount: number; readonly patience: number },
  random: () => number,
): "done" | "failed" {
  const scheduler = schedulerOf(pieces, { ...options, random, announceTimeout: 20_000 });
  const behaviours = new Map(parents.map((behaviour, index) => [`p${index}`, behaviour]));
  for (const [id, { announces }] of behaviours) {
    const route = scheduler.addRoute(id, announces);
    for (let number = 0; announces && number < pieces; number++) route.announce(number);
    if (announces) route.endAnnouncements(false);
  }
  const completed = new Map<number, number>();
  type Outcome = "right" | "wrong" | "failed";
  const running = new Map<number, { attempt: Attempt; at: number; outcome: Outcome }>();
  const begin = (attempt: Attempt, now: number): void => {
    const behaviour = behaviours.get(attempt.routeId);
    assert.ok(behaviour);
    const { exclusion, inFlight, failures } = scheduler.route(attempt.routeId);
    assert.notEqual(exclusion, "banned", "nothing is asked from a parent that sent wrong bytes");
    assert.ok(
      failures === 0 || inFlight === 1,
      "one request at a time goes to a parent that failed",
    );
    assert.ok(
      exclusion === undefined || !attempt.isHedge,
      "no race is run by a parent that is excluded",
    );
    assert.ok(!completed.has(attempt.number), "nothing is asked that is there");
    const stalls = random() < behaviour.stalling;
    const failed = random() < behaviour.failing;
    // A stalled attempt ends by the timeout of its call.
    const at = now + (stalls ? 30_000 : behaviour.delay);
    const outcome =
      stalls || failed ? "failed" : behaviour.wrong && random() < 0.3 ? "wrong" : "right";
    running.set(attempt.id, { attempt, at, outcome });
    const rivals = [...running.values()].filter(
      ({ attempt: other }) => other.number === attempt.number,
    );
    assert.ok(rivals.length <= 2, "two attempts at a piece at most");
    assert.equal(
      new Set(rivals.map(({ attempt: other }) => other.routeId)).size,
      rivals.length,
      "from two parents",
    );
  };
  let now = 0;
  for (let steps = 0; ; steps++) {
    assert.ok(steps < 20_000, "it ends");
    const { starts, wakeAt, failure: last } = step(scheduler, now);
    for (const attempt of starts) begin(attempt, now);
    const distinct = new Set([...running.values()].map(({ attempt }) => attempt.number));
    assert.ok(distinct.size <= options.concurrentPieceCount, `${distinct.size} pieces at a time`);
    if (scheduler.done) break;
    if (last !== undefined) {
      assert.equal(running.size, 0);
      for (const [id, { failing, wrong, stalling }] of behaviours) {
        assert.ok(
          scheduler.route(id).isExcluded,
          "the task fails only if all parents are excluded",
        );
        assert.ok(failing > 0 || wrong || stalling > 0, "an honest parent is never excluded");
      }
      return "failed";
    }
    const next = [...running.values()].sort((a, b) => a.at - b.at)[0];
    const until = Math.min(
      next?.at ?? Number.POSITIVE_INFINITY,
      wakeAt ?? Number.POSITIVE_INFINITY,
    );
    assert.ok(until !== Number.POSITIVE_INFINITY, "something will happen");
    assert.ok(until >= now, "and not in the past");
    now = until;
    if (next === undefined || next.at > now) continue;
    running.delete(next.attempt.id);
    const over =
      next.outcome === "right"
        ? succeed(next.attempt)
        : fail(
            scheduler,
            next.attempt,
            next.outcome === "wrong" ? "DigestMismatch" : "ConnectionLost",
            now,
          );
    for (const { id } of over) assert.ok(running.delete(id), "only what runs is ended");
  }
  assert.equal(completed.size, pieces);
  for (const [number, times] of completed)
    assert.equal(times, 1, `piece ${number} was completed ${times} times`);
  return "done";

  function succeed(attempt: Attempt): readonly Attempt[] {
    completed.set(attempt.number, (completed.get(attempt.number) ?? 0) + 1);
    scheduler.arrived(attempt.id, LENGTH, now);
    return scheduler.succeeded(attempt.id, now);
  }
}

describe("order and combinations", () => {
  it("examines 4,096 pieces after the first one that no parent has, and later ones once that is stored", () => {
    const scheduler = schedulerOf(5000);
    const a = scheduler.addRoute("a", true);
    const b = scheduler.addRoute("b", true);
    a.announce(4097);
    assert.deepEqual(step(scheduler, 0).starts, []);
    a.announce(4096);
    assert.deepEqual(shape(step(scheduler, 0).starts), ["4096@a"]);
    b.announce(0);
    assert.deepEqual(shape(step(scheduler, 0).starts), ["0@b", "4097@a"]);
  });

  it("fetches each of 4,097 and more pieces once, including the last", () => {
    const scheduler = schedulerOf(4200, { concurrentPieceCount: 1000 });
    scheduler.addRoute("a", false);
    const numbers: number[] = [];
    for (let now = 0; !scheduler.done; now++) {
      const { starts } = step(scheduler, now);
      assert.ok(starts.length > 0);
      for (const { id, number } of starts) {
        numbers.push(number);
        scheduler.succeeded(id, now);
      }
    }
    assert.deepEqual(
      numbers,
      Array.from({ length: 4200 }, (_, number) => number),
    );
  });

  it("ignores pieces outside of the task", () => {
    const scheduler = schedulerOf(0, { first: 5, last: 6 });
    scheduler.addRoute("a", false);
    scheduler.beginVerification(4);
    scheduler.beginVerification(7);
    scheduler.endVerification(7, false);
    assert.deepEqual(shape(step(scheduler, 0).starts), ["5@a", "6@a"]);
  });

  it("starts retried pieces in ascending order among unstarted ones", () => {
    const scheduler = schedulerOf(20, { concurrentPieceCount: 4 });
    scheduler.addRoute("a", false);
    const { starts } = step(scheduler, 0);
    const [zero, one, two, three] = starts;
    assert.ok(zero && one && two && three);
    deliver(scheduler, one, 0, 1);
    for (const attempt of [three, zero, two]) fail(scheduler, attempt, "NotFound", 1);
    // Each of them is missing once, so other pieces go first until its pause is over.
    assert.deepEqual(shape(step(scheduler, 1).starts), ["4@a", "5@a", "6@a", "7@a"]);
    const again = schedulerOf(20, { concurrentPieceCount: 4 });
    again.addRoute("a", false);
    const b = again.addRoute("b", true);
    b.endAnnouncements(true);
    const begun = step(again, 0).starts;
    const [first, second] = begun;
    assert.ok(first && second);
    fail(again, second, "RemoteUnimplemented", 1);
    const numbers = step(again, 1).starts.map(({ number }) => number);
    assert.deepEqual(numbers, [1, 3]);
  });

  it("wakes for the earlier of two retries: after 250 ms, and after 2 s", () => {
    for (const order of [
      ["quick", "slow"],
      ["slow", "quick"],
    ] as const) {
      const scheduler = schedulerOf(2, { concurrentPieceCount: 2 });
      for (const id of order) scheduler.addRoute(id, false);
      const slow = scheduler.route("slow");
      failOften(slow, 4);
      assert.deepEqual([slow.isExcluded, slow.retryAt], [false, 2004]);
      scheduler.route("quick").failed(failure("ConnectionLost"), 0, 1, () => 1);
      const { starts, wakeAt } = step(scheduler, 10);
      assert.deepEqual([starts, wakeAt], [[], 251]);
    }
  });

  it("wakes for the earlier of a route in a pause and one that is excluded", () => {
    const scheduler = schedulerOf(3, { concurrentPieceCount: 2, patience: 60_000 });
    scheduler.addRoute("busy", false);
    const paused = scheduler.addRoute("paused", false);
    const gone = scheduler.addRoute("gone", false);
    const useless = scheduler.addRoute("useless", false);
    useless.exclude("useless", 0);
    failOften(gone, 5);
    paused.failed(failure("ConnectionLost"), 1, 2, () => 1);
    assert.deepEqual([paused.retryAt, gone.retryAt, useless.retryAt], [252, 4005, 30_000]);
    const { starts } = step(scheduler, 10);
    assert.deepEqual(shape(starts), ["0@busy", "1@busy"]);
    const [first, second] = starts;
    assert.ok(first && second);
    scheduler.failed(first.id, failure("NotFound"), "missing", 20);
    scheduler.failed(second.id, failure("NotFound"), "missing", 20);
    // The busy route is limited to one request now, for which it waits 250 ms.
    assert.equal(step(scheduler, 20).wakeAt, 252);
  });

  it("probes a excluded route on its schedule while another one is busy", () => {
    for (const [as, at] of [
      ["gone", 4005],
      ["useless", 30_005],
    ] as const) {
      const scheduler = schedulerOf(100, { concurrentPieceCount: 2, pieceTimeout: 1 });
      scheduler.addRoute("busy", false);
      const out = scheduler.addRoute("out", false);
      if (as === "useless") out.exclude(as, 5);
      else failOften(out, 5);
      const [busy] = step(scheduler, 10).starts;
      assert.ok(busy);
      // The busy route has one piece in flight at a time, due to its rate.
      deliver(scheduler, busy, 10, 100);
      for (const { id } of [...scheduler.attempts]) scheduler.succeeded(id, 200);
      const [running] = step(scheduler, 300).starts;
      assert.equal(running?.routeId, "busy");
      assert.equal(step(scheduler, 400).wakeAt, Math.min(at, 1300, 1400));
      const later = step(scheduler, at - 1);
      assert.ok(later.starts.every(({ routeId }) => routeId === "busy"));
      assert.equal(later.wakeAt, at);
      const [probe] = step(scheduler, at).starts.filter(({ routeId }) => routeId === "out");
      assert.ok(probe !== undefined && !probe.isHedge);
      scheduler.arrived(probe.id, LENGTH, at + 10);
      scheduler.succeeded(probe.id, at + 10);
      assert.equal(out.isExcluded, false);
    }
  });

  it("gives no new pieces to a parent with a stalled attempt, and does not avoid the others", () => {
    for (const [at, route] of [
      [999, "fast"],
      [1000, "slow"],
    ] as const) {
      const scheduler = schedulerOf(100, { concurrentPieceCount: 4, maxHedgeBytes: 1 });
      scheduler.addRoute("fast", false);
      scheduler.addRoute("slow", false);
      const { starts } = step(scheduler, 0);
      assert.deepEqual(shape(starts), ["0@fast", "1@slow", "2@fast", "3@slow"]);
      const [, one, two, three] = starts;
      assert.ok(one && two && three);
      // No byte of piece 0 arrives.
      deliver(scheduler, two, 0, 10);
      deliver(scheduler, one, 0, 500);
      deliver(scheduler, three, 0, 900);
      const begun = step(scheduler, at).starts.filter(({ isHedge }) => !isHedge);
      assert.deepEqual(shape(begun), [`4@${route}`, `5@${route}`, `6@${route}`]);
    }
  });

  it("keeps starting pieces if all parents have stalled attempts", () => {
    const scheduler = schedulerOf(10, { concurrentPieceCount: 1 });
    scheduler.addRoute("a", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    const more = schedulerOf(10, { concurrentPieceCount: 2 });
    more.addRoute("a", false);
    assert.equal(step(more, 0).starts.length, 2);
    const [one] = [...more.attempts];
    assert.ok(one);
    more.arrived(one.id, LENGTH, 5000);
    more.succeeded(one.id, 5000);
    assert.deepEqual(shape(step(more, 5000).starts), ["2@a"]);
  });

  it("detects a stall to the millisecond, and none on a route without attempts", () => {
    const scheduler = schedulerOf(3, { concurrentPieceCount: 1 });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", false);
    step(scheduler, 0);
    assert.deepEqual(step(scheduler, 999).starts, []);
    assert.equal(step(scheduler, 500).wakeAt, 1000);
    assert.deepEqual(shape(step(scheduler, 1000).starts), ["0!b"]);
  });

  it("waits for a parent with announcements, and not for one without", () => {
    const scheduler = schedulerOf(2, { announceTimeout: 5000 });
    const silent = scheduler.addRoute("silent", false);
    silent.exclude("banned", 0);
    assert.match(step(scheduler, 0).failure?.message ?? "", /^piece 0 cannot be fetched: /);
    const other = schedulerOf(2, { announceTimeout: 5000 });
    other.addRoute("silent", false).exclude("banned", 0);
    const open = other.addRoute("open", true);
    assert.deepEqual(step(other, 100), { starts: [], wakeAt: 5100, failure: undefined });
    assert.deepEqual(step(other, 5099).wakeAt, 5100);
    const last = step(other, 5100).failure;
    assert.equal(last?.code, "Stalled");
    assert.match(last?.message ?? "", /^piece 0 was not announced by any parent within 5000 ms: /);
    open.endAnnouncements(false);
    assert.equal(step(other, 5101).failure?.code, "NotFound");
  });

  it("retries a piece that a parent lacks after a pause, three times in all", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 1 });
    scheduler.addRoute("a", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    scheduler.succeeded(first.id, 0);
    let now = 0;
    for (const pause of [250, 500, 1000]) {
      const [attempt] = step(scheduler, now).starts;
      assert.equal(attempt?.number, 1);
      assert.ok(attempt);
      fail(scheduler, attempt, "NotFound", now);
      if (pause === 1000) break;
      const waiting = step(scheduler, now + pause - 1);
      assert.deepEqual([waiting.starts, waiting.wakeAt], [[], now + pause]);
      now += pause;
    }
    const last = step(scheduler, now + 100_000).failure;
    assert.equal(last?.code, "NotFound");
    assert.match(last?.message ?? "", /piece 1 cannot be fetched: a does not have it: as set/);
  });
});

describe("hedged attempts at slow pieces", () => {
  /**
   * Starts pieces 0 and 1 over routes "a" and "b". Completes piece 0 after 500 ms, so that a piece
   * over "a" is expected to take 500 ms.
   */
  function measured(
    pieces: number,
    options: Partial<SchedulerOptions> = {},
  ): { scheduler: Scheduler; slow: Attempt } {
    const scheduler = schedulerOf(pieces, { concurrentPieceCount: 2, ...options });
    scheduler.addRoute("a", false);
    scheduler.addRoute("b", true).announce(1);
    const [one, slow] = step(scheduler, 0).starts;
    assert.ok(one !== undefined && slow !== undefined);
    assert.deepEqual(shape([one, slow]), ["0@a", "1@b"]);
    deliver(scheduler, one, 0, 500);
    return { scheduler, slow };
  }

  it("consider the time before a pause of the reader, and not the pause", () => {
    for (const [received, hedges] of [
      [LENGTH / 20, ["1!a"]],
      [(LENGTH * 9) / 10, []],
    ] as const) {
      const { scheduler, slow } = measured(2);
      scheduler.arrived(slow.id, received, 10);
      scheduler.setWaiting(slow.id, false, 510);
      scheduler.setWaiting(slow.id, true, 5000);
      assert.deepEqual(shape(step(scheduler, 5001).starts), hedges);
    }
  });

  it("start earlier at the end, over an idle route, than while pieces are left to start", () => {
    // The rest takes 1.5 s, and the whole piece would take 0.5 s over the other route.
    const slowly = (scheduler: Scheduler, { id }: Attempt): void => {
      scheduler.arrived(id, LENGTH / 8, 10);
      scheduler.arrived(id, LENGTH / 8, 510);
    };
    const atEnd = measured(2);
    slowly(atEnd.scheduler, atEnd.slow);
    assert.deepEqual(shape(step(atEnd.scheduler, 511).starts), ["1!a"]);
    const before = measured(3);
    slowly(before.scheduler, before.slow);
    // The caller allows one piece in flight now, so the route stays idle.
    const narrow = { ...anything, maxPieces: 1 };
    assert.deepEqual(before.scheduler.step(511, narrow).starts, []);
  });

  it("need a greater gain over a route that has another piece in flight", () => {
    const { scheduler, slow } = measured(3, { concurrentPieceCount: 3 });
    const [, other] = [...scheduler.attempts];
    assert.deepEqual(shape(other ? [other] : []), ["2@a"]);
    assert.ok(other);
    scheduler.arrived(slow.id, LENGTH / 6, 10);
    scheduler.setWaiting(other.id, false, 500);
    scheduler.arrived(slow.id, LENGTH / 6, 1010);
    // The rest takes 2 s. Two pieces take 1 s over the other route.
    assert.deepEqual(step(scheduler, 1011).starts, []);
  });

  it("go to a stalled piece before a slow one", () => {
    const scheduler = schedulerOf(3, { concurrentPieceCount: 3, maxHedgeBytes: 1 });
    scheduler.addRoute("a", true).announce(0);
    scheduler.addRoute("b", true).announce(1);
    scheduler.addRoute("fast", false);
    const { starts } = step(scheduler, 0);
    assert.deepEqual(shape(starts), ["0@a", "1@b", "2@fast"]);
    const [slow, , done] = starts;
    assert.ok(slow && done);
    deliver(scheduler, done, 0, 100);
    scheduler.arrived(slow.id, LENGTH / 100, 10);
    scheduler.arrived(slow.id, LENGTH / 100, 999);
    assert.deepEqual(shape(step(scheduler, 1000).starts), ["1!fast"]);
  });
});

describe("the rate of a route", () => {
  it("is measured after an attempt that ended while it was paused", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 1 });
    const a = scheduler.addRoute("a", false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    scheduler.arrived(first.id, LENGTH, 500);
    scheduler.setWaiting(first.id, false, 500);
    scheduler.succeeded(first.id, 600);
    const before = a.rate ?? 0;
    const [second] = step(scheduler, 600).starts;
    assert.ok(second);
    scheduler.arrived(second.id, LENGTH, 10_600);
    assert.ok((a.rate ?? 0) < before, `${a.rate} bytes/ms, before ${before}`);
  });
});

describe("retried pieces", () => {
  it("start in ascending order, in whatever order they failed", () => {
    const scheduler = schedulerOf(10, { concurrentPieceCount: 4 });
    scheduler.addRoute("a", false);
    const { starts } = step(scheduler, 0);
    for (const number of [3, 1, 2, 0]) {
      const attempt = starts[number];
      assert.ok(attempt);
      fail(scheduler, attempt, "ConnectionLost", 1);
    }
    assert.deepEqual(shape(step(scheduler, 300).starts), ["0@a"]);
  });

  it("start before others, also behind a retried piece that no parent has", () => {
    const scheduler = schedulerOf(10, { concurrentPieceCount: 4 });
    scheduler.addRoute("bad", true).endAnnouncements(true);
    const good = scheduler.addRoute("good", true);
    for (const number of [1, 3]) good.announce(number);
    const { starts } = step(scheduler, 0);
    assert.equal(starts.length, 4);
    for (const number of [2, 4, 5]) good.announce(number);
    const bad = starts.filter(({ routeId }) => routeId === "bad");
    const [first] = bad;
    assert.ok(first !== undefined && bad.some(({ number }) => number === 2));
    fail(scheduler, first, "RemoteUnimplemented", 1);
    const again = step(scheduler, 1).starts;
    assert.equal(again[0]?.number, 2);
    assert.ok(again.every(({ number }) => number !== 0));
  });
});

describe("a new round", () => {
  it("does not request a kept piece whose last attempt had failed", () => {
    const scheduler = schedulerOf(2);
    scheduler.addRoute("a", false);
    const [first, second] = step(scheduler, 0).starts;
    assert.ok(first && second);
    scheduler.succeeded(second.id, 1);
    fail(scheduler, first, "NotFound", 1);
    scheduler.restart(new Set([0]), ["a"], 1);
    assert.deepEqual(shape(step(scheduler, 1000).starts), ["1@a"]);
  });

  it("waits for announcements and for failed parents from its start", () => {
    const scheduler = schedulerOf(2, { announceTimeout: 5000 });
    scheduler.addRoute("a", true);
    assert.equal(step(scheduler, 0).wakeAt, 5000);
    scheduler.restart(new Set(), ["a"], 4000);
    assert.equal(step(scheduler, 4000).wakeAt, 9000);
    const other = schedulerOf(2, { patience: 60_000 });
    failOften(other.addRoute("a", false), 5);
    step(other, 10);
    assert.equal(other.patienceLeft(10), 59_995);
    other.restart(new Set(), ["a"], 1000);
    assert.equal(other.patienceLeft(1000), undefined);
  });
});

describe("the wait for failed parents", () => {
  const patience = 60_000;

  it("begins with the failure of the last of them", () => {
    const scheduler = schedulerOf(1, { patience });
    failOften(scheduler.addRoute("a", false), 5);
    const b = scheduler.addRoute("b", false);
    for (let at = 0; at < 5; at++)
      b.failed(failure("ConnectionLost"), b.failureEpoch, 10_000, () => 1);
    step(scheduler, 10_000);
    assert.equal(scheduler.patienceLeft(10_000), patience);
  });

  it("ends with a piece, after which their first bytes restart it five more times", () => {
    const scheduler = schedulerOf(100, { patience, concurrentPieceCount: 1 });
    const a = scheduler.addRoute("a", false);
    let now = 10;
    const probe = (): Attempt => {
      for (;;) {
        const { starts, wakeAt } = step(scheduler, now);
        const [attempt] = starts;
        if (attempt !== undefined) return attempt;
        assert.ok(wakeAt !== undefined && wakeAt > now);
        now = wakeAt;
      }
    };
    const restarts = (): number => {
      for (let count = 0; ; count++) {
        const attempt = probe();
        assert.notEqual(scheduler.patienceLeft(now), undefined);
        scheduler.arrived(attempt.id, 1, now);
        const isRestarted = scheduler.patienceLeft(now) === undefined;
        scheduler.failed(attempt.id, failure("ConnectionLost"), "retry", now);
        step(scheduler, now);
        if (!isRestarted) return count;
      }
    };
    failOften(a, 5);
    assert.equal(restarts(), 5);
    const attempt = probe();
    scheduler.succeeded(attempt.id, now);
    assert.equal(scheduler.patienceLeft(now), undefined);
    for (let failures = 0; failures < 5; failures++)
      a.failed(failure("ConnectionLost"), a.failureEpoch, now, () => 1);
    assert.equal(restarts(), 5);
  });

  it("includes one whose announcements broke off, beside one that is never used again", () => {
    const scheduler = schedulerOf(1, { patience });
    scheduler.addRoute("banned", false).exclude("banned", 0);
    scheduler.addRoute("a", true).interruptAnnouncements();
    const { wakeAt, failure: last } = step(scheduler, 100);
    assert.deepEqual([wakeAt, last], [100 + patience, undefined]);
  });

  it("does not end early for a parent that is excluded from the round and excluded", () => {
    const scheduler = schedulerOf(1, { patience });
    failOften(scheduler.addRoute("gone", false), 5);
    const banned = scheduler.addRoute("banned", false);
    scheduler.excludeFromRound("banned", failure("DigestMismatch"), 0);
    assert.ok(step(scheduler, 10).failure, "the next round uses the excluded one");
    banned.exclude("banned", 0);
    assert.equal(step(scheduler, 10).failure, undefined);
  });

  it("does not include parents without the missing pieces, nor those that lack the task", () => {
    const scheduler = schedulerOf(2, { patience });
    const gone = scheduler.addRoute("gone", true);
    gone.announce(0);
    gone.endAnnouncements(false);
    const [first] = step(scheduler, 0).starts;
    assert.ok(first);
    scheduler.succeeded(first.id, 0);
    failOften(gone, 5);
    scheduler.addRoute("useless", false).exclude("useless", 0);
    const { failure: last } = step(scheduler, 10);
    assert.ok(last);
    assert.equal(scheduler.patienceLeft(10), undefined);
    assert.doesNotMatch(last.message, /recovered/);
  });

  it("ends in time beside a parent that lacks the task, which is not waited for", () => {
    const scheduler = schedulerOf(1, { patience: 1000 });
    const gone = scheduler.addRoute("gone", false);
    scheduler.addRoute("useless", false).exclude("useless", 0);
    failOften(gone, 5);
    gone.failed(failure("ConnectionLost"), gone.failureEpoch, 5000, () => 1);
    step(scheduler, 5000);
    const [probe] = step(scheduler, 6000).starts;
    assert.equal(probe?.routeId, "gone");
    assert.ok(probe);
    fail(scheduler, probe, "ConnectionLost", 6000);
    assert.match(step(scheduler, 6000).failure?.message ?? "", /within the patience of 1000 ms/);
  });

  it("has not begun while another parent still delivers the last piece", () => {
    const scheduler = schedulerOf(2, { patience, concurrentPieceCount: 2 });
    scheduler.addRoute("a", false);
    failOften(scheduler.addRoute("gone", false), 5);
    assert.deepEqual(shape(step(scheduler, 5000).starts), ["0@a", "1@gone"]);
    step(scheduler, 5001);
    assert.equal(scheduler.patienceLeft(5001), undefined);
  });
});

describe("a parent that sends wrong data", () => {
  it("is banned on all routes, and a test request over a route out of regular use ends too", () => {
    const scheduler = schedulerOf(2, { concurrentPieceCount: 2 });
    const quic = scheduler.addRoute({ parent: "a", protocol: "quic" }, false);
    const tcp = scheduler.addRoute({ parent: "a", protocol: "tcp" }, false);
    failOften(tcp, 5);
    const { starts } = step(scheduler, 5000);
    assert.deepEqual(
      starts.map(({ routeId }) => routeId),
      [quic.id, tcp.id],
    );
    const [wrong, probe] = starts;
    assert.ok(wrong && probe);
    assert.deepEqual(
      fail(scheduler, wrong, "DigestMismatch", 5001).map(({ id }) => id),
      [probe.id],
    );
    assert.deepEqual([...scheduler.attempts], []);
  });
});

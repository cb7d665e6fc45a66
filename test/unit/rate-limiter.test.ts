import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RateLimiter } from "../../src/rate-limiter.ts";
import { assertThrows } from "../support/failures.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

const never = new AbortController().signal;

/** Notes at what time each of the grants came. */
function noting(clock: FakeClock): {
  grants: [name: string, at: number][];
  note(name: string, grant: Promise<void>): void;
} {
  const started = clock.now();
  const grants: [string, number][] = [];
  return { grants, note: (name, grant) => void grant.then(() => grants.push([name, clock.now() - started])) };
}

describe("the rate limiter", () => {
  it("grants a second's worth at once, and then at the rate, in order", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    note("a", limiter.take(1000, never));
    note("b", limiter.take(500, never));
    note("c", limiter.take(1, never));
    note("d", limiter.take(499, never));
    await settle();
    assert.deepEqual(grants, [["a", 0]]);
    await clock.advance(5000);
    assert.deepEqual(grants, [
      ["a", 0],
      ["b", 500],
      ["c", 501],
      ["d", 1000],
    ]);
    assert.equal(clock.pending, 0);
  });

  it("grants what was given back to those who wait, without a wait for it", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    await limiter.take(1000, never);
    note(
      "gone",
      limiter.take(1000, never).then(() => limiter.giveBack(1000)),
    );
    note(
      "gone too",
      limiter.take(1000, never).then(() => limiter.giveBack(1000)),
    );
    note("a", limiter.take(1000, never));
    note("b", limiter.take(1000, never));
    await clock.advance(5000);
    assert.deepEqual(Object.fromEntries(grants), { gone: 1000, "gone too": 1000, a: 1000, b: 2000 });
    assert.equal(clock.pending, 0);
  });

  it("saves up no more than a second's worth in a pause", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await clock.advance(3_600_000);
    const { grants, note } = noting(clock);
    note("a", limiter.take(1000, never));
    note("b", limiter.take(1000, never));
    await clock.advance(2000);
    assert.deepEqual(grants, [
      ["a", 0],
      ["b", 1000],
    ]);
  });

  it("passes more than a second's worth in one piece, and has it paid for by the next", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    note("a", limiter.take(5000, never));
    note("b", limiter.take(1000, never));
    await clock.advance(60_000);
    assert.deepEqual(grants, [
      ["a", 4000],
      ["b", 5000],
    ]);
  });

  it("grants no more than the rate over a long time, and no less", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(12_345, clock);
    let granted = 0;
    let stop = false;
    const taking = (async () => {
      while (!stop) {
        await limiter.take(777, never);
        granted += 777;
      }
    })();
    await clock.advance(100_000);
    stop = true;
    assert.ok(granted <= 101 * 12_345, `${granted} bytes in 100 s`);
    assert.ok(granted > 101 * 12_345 - 2 * 777, `${granted} bytes in 100 s`);
    await clock.advance(1000);
    await taking;
  });

  it("a signal ends the wait at once, and what was not granted is not paid for", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    const abort = new AbortController();
    note("a", limiter.take(1000, never));
    note("given up", limiter.take(1000, abort.signal));
    note("b", limiter.take(100, never));
    await clock.advance(50);
    abort.abort();
    await settle();
    assert.deepEqual(grants, [
      ["a", 0],
      ["given up", 50],
    ]);
    await clock.advance(10_000);
    assert.deepEqual(grants[2], ["b", 100]);
    assert.equal(clock.pending, 0);
  });

  it("a signal ends the wait of one who stands further back in the queue too", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    const abort = new AbortController();
    note("a", limiter.take(3000, never));
    note("given up", limiter.take(5000, abort.signal));
    note("b", limiter.take(500, never));
    await clock.advance(10);
    abort.abort();
    await settle();
    assert.deepEqual(grants, [["given up", 10]]);
    await clock.advance(10_000);
    assert.deepEqual(grants.slice(1), [
      ["a", 2000],
      ["b", 2500],
    ]);
  });

  it("a signal that has fired before takes nothing", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await limiter.take(1_000_000, AbortSignal.abort());
    const { grants, note } = noting(clock);
    note("a", limiter.take(1000, never));
    await settle();
    assert.deepEqual(grants, [["a", 0]]);
  });

  it("payers have equal shares in bytes, however many requests each of them has, and how large these are", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await limiter.take(1000, never);
    const had = new Map<string, number>();
    const end = new AbortController();
    const asking = (payer: string, bytes: number): void => {
      void (async () => {
        for (;;) {
          await limiter.take(bytes, end.signal, payer);
          if (end.signal.aborted) return;
          had.set(payer, (had.get(payer) ?? 0) + bytes);
        }
      })();
    };
    for (let request = 0; request < 100; request++) asking("greedy", 16);
    asking("large", 100);
    asking("small", 10);
    await clock.advance(60_000);
    for (const payer of ["greedy", "large", "small"]) {
      const bytes = had.get(payer) ?? 0;
      assert.ok(Math.abs(bytes - 20_000) <= 200, `${payer}: ${bytes} of 60,000 bytes`);
    }
    end.abort();
    await settle();
    assert.equal(clock.pending, 0);
  });

  it("who comes later has a share from then on, and makes up for nothing", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await limiter.take(1000, never);
    const { grants, note } = noting(clock);
    for (let request = 0; request < 10; request++) note("first", limiter.take(100, never, "first"));
    await clock.advance(500);
    for (let request = 0; request < 5; request++) note("late", limiter.take(100, never, "late"));
    await clock.advance(2000);
    assert.deepEqual(
      grants.slice(5, 13).map(([name]) => name),
      ["late", "first", "late", "first", "late", "first", "late", "first"],
    );
    assert.equal(grants.at(-1)?.[1], 1500);
  });

  it("a share is saved up neither by whoever gives up nor by whoever pauses", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await limiter.take(1000, never);
    const { grants, note } = noting(clock);
    const gone = new AbortController();
    note("gone", limiter.take(5000, gone.signal, "a"));
    await clock.advance(900);
    gone.abort();
    await settle();
    for (const name of ["b", "a"])
      for (let request = 0; request < 3; request++) note(name, limiter.take(1000, never, name));
    await clock.advance(60_000);
    // Of the 900 that were there when the first one gave up, nothing is lost.
    assert.deepEqual(grants, [
      ["gone", 900],
      ["b", 1000],
      ["a", 2000],
      ["b", 3000],
      ["a", 4000],
      ["b", 5000],
      ["a", 6000],
    ]);
  });

  it("a chunk is cut into portions of a 64th of a second, none of them tiny, and nothing of it is lost", () => {
    const chunk = Uint8Array.from({ length: 10_001 }, (_, at) => at % 251);
    for (const [rate, length] of [
      [128_000, 2000],
      [10, 1024],
      [1_000_000, 10_001],
    ] as const) {
      const portions = [...new RateLimiter(rate, new FakeClock()).portions(chunk)];
      assert.deepEqual(
        portions.slice(0, -1).map((portion) => portion.length),
        Array.from({ length: portions.length - 1 }, () => length),
      );
      assert.deepEqual(Uint8Array.from(portions.flatMap((portion) => [...portion])), chunk);
    }
  });

  it("a rate that is no positive integer is InvalidArgument", () => {
    for (const rate of [0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      assertThrows(() => new RateLimiter(rate, new FakeClock()), "InvalidArgument");
    }
  });
});

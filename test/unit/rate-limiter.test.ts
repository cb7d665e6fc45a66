import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RateLimiter } from "../../src/rate-limiter.ts";
import { assertThrows } from "../support/failures.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

const never = new AbortController().signal;

/** Takes bytes by a flow for just these. */
function take(
  limiter: RateLimiter,
  bytes: number,
  signal: AbortSignal,
  payer?: string,
): Promise<void> {
  return limiter.flow(payer).takeAll(bytes, signal);
}

/** Notes at what time each of the grants came. */
function noting(clock: FakeClock): {
  grants: [name: string, at: number][];
  note(name: string, grant: Promise<void>): void;
} {
  const started = clock.now();
  const grants: [string, number][] = [];
  return {
    grants,
    note: (name, grant) => void grant.then(() => grants.push([name, clock.now() - started])),
  };
}

describe("the rate limiter", () => {
  it("grants a second's worth at once, and then at the rate, in order", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    note("a", take(limiter, 1000, never));
    note("b", take(limiter, 500, never));
    note("c", take(limiter, 1, never));
    note("d", take(limiter, 499, never));
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
    await take(limiter, 1000, never);
    const gone = limiter.flow();
    note(
      "gone",
      gone.take(250, never).then((bytes) => gone.giveBack(bytes)),
    );
    note("a", take(limiter, 250, never));
    note("b", take(limiter, 250, never));
    await clock.advance(5000);
    assert.deepEqual(Object.fromEntries(grants), { gone: 250, a: 250, b: 500 });
    assert.equal(clock.pending, 0);
  });

  it("saves up no more than a second's worth in a pause", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await clock.advance(3_600_000);
    const { grants, note } = noting(clock);
    note("a", take(limiter, 1000, never));
    note("b", take(limiter, 1000, never));
    await clock.advance(2000);
    assert.deepEqual(grants, [
      ["a", 0],
      ["b", 1000],
    ]);
  });

  it("passes more than a second's worth in grants of a quarter of a second, and keeps the next flow alive meanwhile", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    note("a", take(limiter, 5000, never));
    note("b", take(limiter, 1000, never));
    await clock.advance(60_000);
    // Of 4 s, each second 31 bytes went to the other one.
    assert.deepEqual(grants, [
      ["a", 4124],
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
        await take(limiter, 777, never);
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
    note("a", take(limiter, 1000, never));
    note("given up", take(limiter, 1000, abort.signal));
    note("b", take(limiter, 100, never));
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
    note("a", take(limiter, 3000, never));
    note("given up", take(limiter, 5000, abort.signal));
    note("b", take(limiter, 500, never));
    await clock.advance(10);
    abort.abort();
    await settle();
    assert.deepEqual(grants, [["given up", 10]]);
    await clock.advance(10_000);
    assert.deepEqual(grants.slice(1), [
      ["a", 2062],
      ["b", 2500],
    ]);
  });

  it("a signal that has fired before takes nothing", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1_000_000, AbortSignal.abort());
    const { grants, note } = noting(clock);
    note("a", take(limiter, 1000, never));
    await settle();
    assert.deepEqual(grants, [["a", 0]]);
  });

  it("payers have equal shares in bytes, however many requests each of them has, and how large these are", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1000, never);
    const had = new Map<string, number>();
    const end = new AbortController();
    const asking = (payer: string, bytes: number): void => {
      void (async () => {
        for (;;) {
          await take(limiter, bytes, end.signal, payer);
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
    const limiter = new RateLimiter(100_000, clock);
    await take(limiter, 100_000, never);
    const { grants, note } = noting(clock);
    for (let request = 0; request < 10; request++)
      note("first", take(limiter, 1000, never, "first"));
    await clock.advance(50);
    for (let request = 0; request < 5; request++) note("late", take(limiter, 1000, never, "late"));
    await clock.advance(200);
    assert.deepEqual(
      grants.slice(5, 13).map(([name]) => name),
      ["late", "first", "late", "first", "late", "first", "late", "first"],
    );
    assert.equal(grants.at(-1)?.[1], 150);
  });

  it("a share is saved up neither by whoever gives up nor by whoever pauses", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(100_000, clock);
    await take(limiter, 100_000, never);
    const { grants, note } = noting(clock);
    const gone = new AbortController();
    note(
      "gone",
      limiter
        .flow("a")
        .take(1500, gone.signal)
        .then(() => {}),
    );
    await clock.advance(9);
    gone.abort();
    await settle();
    for (const name of ["b", "a"])
      for (let request = 0; request < 3; request++) note(name, take(limiter, 1000, never, name));
    await clock.advance(60_000);
    // Of the 900 bytes that were there when the first one gave up, nothing is lost.
    assert.deepEqual(grants, [
      ["gone", 9],
      ["b", 10],
      ["a", 20],
      ["b", 30],
      ["a", 40],
      ["b", 50],
      ["a", 60],
    ]);
  });

  it("grants a 64th of a second at a time, of low rates a quarter of a second up to 1 KiB, and never more than was asked for", () => {
    for (const [rate, length] of [
      [128_000, 2000],
      [1_000_000, 15_625],
      [8192, 1024],
      [1000, 250],
      [10, 3],
      [1, 1],
    ] as const) {
      const flow = new RateLimiter(rate, new FakeClock()).flow();
      assert.equal(flow.takeNow(1_000_000), length, `${rate} bytes a second`);
      if (rate > 10) assert.equal(flow.takeNow(length - 1), length - 1);
    }
  });

  it("serves the oldest flow of a payer first, so that flows are complete one after another", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(3_000_000, clock);
    const { grants, note } = noting(clock);
    for (let flow = 0; flow < 8; flow++) note(`${flow}`, take(limiter, 4_194_304, never));
    await clock.advance(12_000);
    assert.deepEqual(
      grants.map(([name]) => name),
      ["0", "1", "2", "3", "4", "5", "6", "7"],
    );
    // A second's worth went at once. Each takes 1.4 s and what the others are kept alive with; together they would take 10.2 s each.
    for (const [index, [, at]] of grants.entries()) {
      const alone = ((index + 1) * 4_194_304) / 3000 - 1000;
      assert.ok(
        at >= alone - 200 && at <= alone + 100,
        `flow ${index} at ${at} ms, alone at ${alone} ms`,
      );
    }
  });

  it("an older flow that was not waiting goes before younger ones when it comes back", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const older = limiter.flow();
    await take(limiter, 1000, never);
    const { grants, note } = noting(clock);
    for (let request = 0; request < 4; request++) note("younger", take(limiter, 250, never));
    await clock.advance(300);
    note("older", older.takeAll(250, never));
    await clock.advance(5000);
    assert.deepEqual(
      grants.map(([name]) => name),
      ["younger", "older", "younger", "younger", "younger"],
    );
  });

  for (const [rate, flows, most] of [
    [1000, 32, 1300],
    [50_000, 128, 1300],
    [1000, 500, 8500],
    [100, 200, 12_500],
    [100, 1000, 20_500],
    [1_000_000, 3000, 12_500],
  ] as const) {
    for (const payers of [1, 7, flows]) {
      it(`${rate} bytes a second, ${flows} flows of ${payers} payers: none waits for more than ${most} ms, and the rate is used up`, async () => {
        const clock = new FakeClock();
        const limiter = new RateLimiter(rate, clock);
        await take(limiter, rate, never);
        const started = clock.now();
        const end = new AbortController();
        let longest = 0;
        let bytes = 0;
        const last = new Float64Array(flows).fill(started);
        for (let index = 0; index < flows; index++) {
          const flow = limiter.flow(`payer ${index % payers}`);
          void (async () => {
            for (;;) {
              const granted = await flow.take(1_000_000, end.signal);
              if (granted === 0) return;
              bytes += granted;
              longest = Math.max(longest, clock.now() - (last[index] ?? 0));
              last[index] = clock.now();
            }
          })();
        }
        // Each turn of the fake clock takes real time, so the widest portions are few enough.
        const span = rate > 10_000 ? 15_000 : 40_000;
        for (let at = 0; at < span; at += 100) await clock.advance(100);
        for (const at of last) longest = Math.max(longest, clock.now() - at);
        assert.ok(longest <= most, `one flow waited for ${longest} ms`);
        const expected = (rate * span) / 1000;
        assert.ok(
          bytes <= expected && bytes >= expected * 0.95 - 1024,
          `${bytes} of ${expected} bytes`,
        );
        end.abort();
        await settle();
        assert.equal(clock.pending, 0);
      });
    }
  }

  it("tells when a flow waited last", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    assert.equal(limiter.waitedAt, Number.NEGATIVE_INFINITY);
    await take(limiter, 1000, never);
    assert.equal(limiter.waitedAt, Number.NEGATIVE_INFINITY);
    const waiting = take(limiter, 250, never);
    await clock.advance(100);
    assert.equal(limiter.waitedAt, clock.now());
    await clock.advance(150);
    const granted = clock.now();
    await waiting;
    await clock.advance(5000);
    assert.equal(limiter.waitedAt, granted);
  });

  it("a signal that fires between two grants gives back those before it", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1000, never);
    const { grants, note } = noting(clock);
    const abort = new AbortController();
    note("given up", take(limiter, 1000, abort.signal));
    await clock.advance(600);
    abort.abort();
    note("b", take(limiter, 600, never));
    await settle();
    assert.deepEqual(grants, [
      ["given up", 600],
      ["b", 600],
    ]);
  });

  it("a rate that is no positive integer is InvalidArgument", () => {
    for (const rate of [0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      assertThrows(() => new RateLimiter(rate, new FakeClock()), "InvalidArgument");
    }
  });
});

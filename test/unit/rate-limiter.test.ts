import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RateLimiter } from "../../src/rate-limiter.ts";
import { assertThrows } from "../support/failures.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

const never = new AbortController().signal;

/** Takes bytes through a new flow. */
function take(
  limiter: RateLimiter,
  bytes: number,
  signal: AbortSignal,
  payer?: string,
): Promise<void> {
  return limiter.flow(payer).takeAll(bytes, signal);
}

/** Records the time of each grant. */
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

describe("RateLimiter", () => {
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

  it("grants returned bytes to waiting flows at once", async () => {
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

  it("accumulates at most a second's worth in a pause", async () => {
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

  it("passes more than a second's worth in grants of a quarter of a second, with keep-alive grants for the next flow", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    note("a", take(limiter, 5000, never));
    note("b", take(limiter, 1000, never));
    await clock.advance(60_000);
    // During 4 s, 31 bytes a second went to the other flow.
    assert.deepEqual(grants, [
      ["a", 4124],
      ["b", 5000],
    ]);
  });

  it("grants exactly the rate over a long time", async () => {
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

  it("a signal ends the wait at once, and bytes that were not granted cost nothing", async () => {
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

  it("a signal also ends the wait of a flow further back in the queue", async () => {
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

  it("an aborted signal takes nothing", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1_000_000, AbortSignal.abort());
    const { grants, note } = noting(clock);
    note("a", take(limiter, 1000, never));
    await settle();
    assert.deepEqual(grants, [["a", 0]]);
  });

  it("payers get equal shares in bytes, whatever the number and size of their requests", async () => {
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

  it("a later payer gets its share from then on, without catching up", async () => {
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

  it("a payer accumulates no share while it pauses, nor after it gives up", async () => {
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
    // None of the 900 bytes of credit are lost when the first flow gives up.
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

  it("grants a 64th of a second's worth, or a quarter of a second's worth up to 1 KiB at low rates, and at most the requested bytes", () => {
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

  it("serves the oldest flow of a payer first, so that flows complete one after another", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(3_000_000, clock);
    const { grants, note } = noting(clock);
    for (let flow = 0; flow < 8; flow++) note(`${flow}`, take(limiter, 4_194_304, never));
    await clock.advance(12_000);
    assert.deepEqual(
      grants.map(([name]) => name),
      ["0", "1", "2", "3", "4", "5", "6", "7"],
    );
    // A second's worth is granted at once. Each flow takes 1.4 s plus keep-alive grants; with equal
    // shares each would take 10.2 s.
    for (const [index, [, at]] of grants.entries()) {
      const alone = ((index + 1) * 4_194_304) / 3000 - 1000;
      assert.ok(
        at >= alone - 200 && at <= alone + 100,
        `flow ${index} at ${at} ms, alone at ${alone} ms`,
      );
    }
  });

  it("an older flow goes before younger ones when it waits again", async () => {
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
      it(`${rate} bytes/s, ${flows} flows of ${payers} payers: each waits at most ${most} ms, and the rate is used up`, async () => {
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
        // Each step of the fake clock takes real time, so the largest grants keep the number of
        // steps low.
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

  it("a payer that was served alone before has its equal share when another one comes", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1000, never);
    const alone = take(limiter, 500, never, "a");
    await clock.advance(500);
    await alone;
    const { grants, note } = noting(clock);
    for (const name of ["a", "b"])
      for (let request = 0; request < 2; request++) note(name, take(limiter, 250, never, name));
    await clock.advance(2000);
    assert.deepEqual(
      grants.map(([name]) => name),
      ["a", "b", "a", "b"],
    );
  });

  it("payers have equal shares also after another one, with fewer bytes, is done", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1000, never);
    const { grants, note } = noting(clock);
    note("done", take(limiter, 10, never, "done"));
    for (let request = 0; request < 5; request++) note("many", take(limiter, 50, never, "many"));
    for (let request = 0; request < 3; request++) note("one", take(limiter, 50, never, "one"));
    await clock.advance(2000);
    assert.deepEqual(
      grants.map(([name]) => name),
      ["done", "many", "one", "many", "one", "many", "one", "many", "many"],
    );
  });

  it("keep-alive grants to other payers do not delay a new payer", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1000, never);
    const end = new AbortController();
    const names: string[] = [];
    const run = async (name: string, payer: string): Promise<void> => {
      const flow = limiter.flow(payer);
      while ((await flow.take(250, end.signal)) > 0) names.push(name);
    };
    const running = [run("x", "x"), run("x, younger", "x"), run("y", "y")];
    await clock.advance(1000);
    assert.deepEqual(names, ["x", "y", "x", "x, younger"], "the last one is a keep-alive grant");
    running.push(run("new", "new"));
    await clock.advance(280);
    assert.deepEqual(names.slice(4), ["y", "new"]);
    end.abort();
    await Promise.all(running);
  });

  for (const [rate, flows, maxPerSecond] of [
    [1000, 500, 1000 / 16],
    [1_000_000, 1000, 256],
  ] as const) {
    it(`keep-alive grants to ${flows - 1} flows are at most ${maxPerSecond} a second at ${rate} bytes/s, and use 1/16 of the rate`, async () => {
      const clock = new FakeClock();
      const limiter = new RateLimiter(rate, clock);
      await take(limiter, rate, never);
      const end = new AbortController();
      const younger = { grants: 0, bytes: 0 };
      for (let index = 0; index < flows; index++) {
        const flow = limiter.flow();
        void (async () => {
          for (;;) {
            const granted = await flow.take(1_000_000, end.signal);
            if (granted === 0) return;
            if (index === 0) continue;
            younger.grants++;
            younger.bytes += granted;
          }
        })();
      }
      const seconds = 20;
      for (let at = 0; at < seconds * 1000; at += 100) await clock.advance(100);
      const { grants, bytes } = younger;
      assert.ok(grants <= seconds * maxPerSecond, `${grants} grants`);
      assert.ok(bytes <= (seconds * rate) / 16, `${bytes} bytes`);
      end.abort();
      await settle();
      assert.equal(clock.pending, 0);
    });
  }

  it("take grants available bytes at once, and counts them once", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    const { grants, note } = noting(clock);
    for (let request = 0; request < 4; request++) {
      const flow = limiter.flow();
      note(
        `${request}`,
        flow.take(250, never).then((bytes) => assert.equal(bytes, 250)),
      );
    }
    await settle();
    assert.equal(grants.length, 4);
    assert.equal(limiter.waitedAt, Number.NEGATIVE_INFINITY);
  });

  it("a signal that aborts after the grant changes nothing", async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, clock);
    await take(limiter, 1000, never);
    const abort = new AbortController();
    const flow = limiter.flow();
    const waiting = flow.take(250, abort.signal);
    await clock.advance(250);
    assert.equal(await waiting, 250);
    const { waitedAt } = limiter;
    await clock.advance(1000);
    abort.abort();
    assert.equal(limiter.waitedAt, waitedAt);
  });

  it("waitedAt is the latest time at which a flow waited", async () => {
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

  it("a signal that aborts between two grants returns the earlier ones", async () => {
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

  it("a rate other than a positive integer is InvalidArgument", () => {
    for (const rate of [0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      assertThrows(() => new RateLimiter(rate, new FakeClock()), "InvalidArgument");
    }
  });
});

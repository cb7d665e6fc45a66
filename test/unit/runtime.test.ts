import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { portableRuntime, systemClock } from "../../src/runtime.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";

describe("systemClock", () => {
  it("fires timers once, in the order of time, and no cancelled one", async () => {
    const fired: string[] = [];
    const cancelled = systemClock.setTimer(() => fired.push("cancelled"), 1);
    cancelled.cancel();
    cancelled.cancel();
    await new Promise<void>((resolve) => {
      systemClock.setTimer(() => fired.push("first"), 2);
      systemClock.setTimer(() => {
        fired.push("second");
        resolve();
      }, 30);
    });
    assert.deepEqual(fired, ["first", "second"]);
  });

  it("is monotonic, and has advanced by at least the delay when a timer fires", async () => {
    const started = systemClock.now();
    await new Promise<void>((resolve) => {
      systemClock.setTimer(resolve, 20);
    });
    // Timers of some runtimes have a resolution of 1 ms.
    assert.ok(systemClock.now() - started >= 19);
  });

  it("a negative delay fires at once", async () => {
    await new Promise<void>((resolve) => {
      systemClock.setTimer(resolve, -5);
    });
  });

  it("a delay over the maximum of setTimeout runs in steps, and can be cancelled in each", () => {
    const steps: number[] = [];
    const callbacks: (() => void)[] = [];
    let cleared = 0;
    let unrefs = 0;
    const { setTimeout, clearTimeout } = globalThis;
    let fired = 0;
    try {
      Object.assign(globalThis, {
        setTimeout: (callback: () => void, milliseconds: number) => {
          steps.push(milliseconds);
          callbacks.push(callback);
          return { unref: () => unrefs++ };
        },
        clearTimeout: () => cleared++,
      });
      const timer = systemClock.setTimer(() => fired++, 2 * 0x7fffffff + 5, { background: true });
      callbacks[0]?.();
      callbacks[1]?.();
      assert.equal(fired, 0);
      callbacks[2]?.();
      timer.cancel();
    } finally {
      Object.assign(globalThis, { setTimeout, clearTimeout });
    }
    assert.deepEqual(steps, [0x7fffffff, 0x7fffffff, 5]);
    assert.deepEqual([fired, cleared, unrefs], [1, 1, 3]);
  });
});

describe("portableRuntime", () => {
  it("fills an array with random bytes", () => {
    const bytes = new Uint8Array(64);
    assert.equal(portableRuntime.random(bytes), bytes);
    assert.ok(bytes.some((byte) => byte !== 0));
  });
});

describe("AsyncQueue", () => {
  it("yields items pushed before and during the loop, in order, and ends after the queued ones", async () => {
    const queue = new AsyncQueue<number>();
    assert.equal(queue.push(1), true);
    const seen: number[] = [];
    const loop = (async () => {
      for await (const item of queue) {
        seen.push(item);
        if (item === 2) {
          queue.push(3);
          queue.end();
        }
      }
    })();
    await Promise.resolve();
    queue.push(2);
    await loop;
    assert.deepEqual(seen, [1, 2, 3]);
    assert.equal(queue.push(4), false);
  });

  it("a loop that stops early ends the queue", async () => {
    const queue = new AsyncQueue<number>();
    queue.push(1);
    for await (const item of queue) if (item === 1) break;
    assert.equal(queue.push(2), false);
  });
});

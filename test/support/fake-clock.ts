import { setImmediate } from "node:timers";
import { portableHashers } from "../../src/digest/hasher.ts";
import type { Clock, Runtime, Timer } from "../../src/runtime.ts";

interface FakeTimer {
  readonly at: number;
  readonly callback: () => void;
  readonly background: boolean;
}

/** Clock whose time advances only when a test calls `advance` or `advanceUntil`. */
export class FakeClock implements Clock {
  readonly #timers = new Set<FakeTimer>();
  #now: number;

  constructor(start = 1_000_000) {
    this.#now = start;
  }

  /** Number of timers that have neither fired nor been cancelled. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Number of pending timers that would keep a real process alive. */
  get foregroundPending(): number {
    return [...this.#timers].filter(({ background }) => !background).length;
  }

  now(): number {
    return this.#now;
  }

  setTimer(
    callback: () => void,
    milliseconds: number,
    options?: { readonly background?: boolean },
  ): Timer {
    const at = this.#now + Math.max(0, milliseconds);
    const timer = { at, callback, background: options?.background ?? false };
    this.#timers.add(timer);
    return { cancel: () => this.#timers.delete(timer) };
  }

  /**
   * Advances the time by `milliseconds`, and fires the due timers in order. After each timer, runs
   * pending microtasks and event-loop turns.
   */
  async advance(milliseconds: number): Promise<void> {
    const target = this.#now + milliseconds;
    await settle();
    for (let due = this.#nextDue(target); due !== undefined; due = this.#nextDue(target)) {
      this.#timers.delete(due);
      this.#now = Math.max(this.#now, due.at);
      due.callback();
      await settle();
    }
    this.#now = target;
  }

  /**
   * Advances the time in steps of `step` ms until `promise` settles. Returns the elapsed fake time
   * in ms. After `limit` ms of fake time, also waits 20 ms of real time per step, for sockets.
   * Throws after 500 such steps.
   */
  async advanceUntil(promise: Promise<unknown>, limit: number, step = 1000): Promise<number> {
    let settled = false;
    const onSettled = (): void => {
      settled = true;
    };
    promise.then(onSettled, onSettled);
    const start = this.#now;
    await settle();
    for (let realWaits = 0; !settled; ) {
      if (this.#now - start >= limit) {
        if (realWaits++ === 500)
          throw new Error(`the promise did not settle within ${limit} ms of the fake clock`);
        await new Promise<void>((resolve) => {
          setTimeout(resolve, 20);
        });
      }
      await this.advance(step);
    }
    return this.#now - start;
  }

  #nextDue(target: number): FakeTimer | undefined {
    let first: FakeTimer | undefined;
    for (const timer of this.#timers) {
      if (timer.at <= target && (first === undefined || timer.at < first.at)) first = timer;
    }
    return first;
  }
}

/**
 * Creates a runtime with a fake clock, and a random source that always returns bytes of value 7.
 */
export function fakeRuntime(
  clock: FakeClock = new FakeClock(),
): Runtime & { readonly clock: FakeClock } {
  return { clock, random: (bytes) => bytes.fill(7), hashers: portableHashers };
}

/** Runs all pending microtasks and three turns of the event loop. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) {
    await new Promise<void>((resolve) => {
      setImmediate(resolve);
    });
  }
}

import { setImmediate } from "node:timers";
import { portableHashers } from "../../src/digest/hasher.ts";
import type { Clock, Runtime, Timer } from "../../src/runtime.ts";

interface FakeTimer {
  readonly at: number;
  readonly callback: () => void;
  readonly background: boolean;
}

/** A clock that stands still until a test moves it. */
export class FakeClock implements Clock {
  readonly #timers = new Set<FakeTimer>();
  #now: number;

  constructor(start = 1_000_000) {
    this.#now = start;
  }

  /** Timers that have neither fired nor been cancelled. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Those of them that would keep a process alive. */
  get holding(): number {
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

  /** Moves time on, firing what is due in its order, and lets everything run that waits for nothing else. */
  async advance(milliseconds: number): Promise<void> {
    const target = this.#now + milliseconds;
    await settle();
    for (let due = this.#due(target); due !== undefined; due = this.#due(target)) {
      this.#timers.delete(due);
      this.#now = Math.max(this.#now, due.at);
      due.callback();
      await settle();
    }
    this.#now = target;
  }

  /**
   * Moves time on in steps until `promise` settles, and returns how far it went; fails after `limit` milliseconds, but not
   * before sockets have had some real time too.
   */
  async advanceUntil(promise: Promise<unknown>, limit: number, step = 1000): Promise<number> {
    let settled = false;
    const note = (): void => {
      settled = true;
    };
    promise.then(note, note);
    const start = this.#now;
    await settle();
    for (let patience = 0; !settled; ) {
      if (this.#now - start >= limit) {
        if (patience++ === 500)
          throw new Error(`nothing was settled within ${limit} ms of the fake clock`);
        await new Promise<void>((resolve) => {
          setTimeout(resolve, 20);
        });
      }
      await this.advance(step);
    }
    return this.#now - start;
  }

  #due(target: number): FakeTimer | undefined {
    let first: FakeTimer | undefined;
    for (const timer of this.#timers) {
      if (timer.at <= target && (first === undefined || timer.at < first.at)) first = timer;
    }
    return first;
  }
}

/** A runtime on a fake clock, whose "random" bytes are all 7. */
export function fakeRuntime(
  clock: FakeClock = new FakeClock(),
): Runtime & { readonly clock: FakeClock } {
  return { clock, random: (bytes) => bytes.fill(7), hashers: portableHashers };
}

/** Lets run whatever is ready to: all microtasks, and a few turns of the event loop. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) {
    await new Promise<void>((resolve) => {
      setImmediate(resolve);
    });
  }
}

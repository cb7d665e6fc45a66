import { type HasherFactory, portableHashers } from "./digest/hasher.ts";

/** A timer that has not fired yet. */
export interface Timer {
  /** Idempotent; after it the callback does not run. */
  cancel(): void;
}

/** Time is passed in, so that tests move it. */
export interface Clock {
  /** Milliseconds that only grow; their origin has no meaning. */
  now(): number;
  /** Runs `callback` once after `milliseconds`. A background timer does not keep the process alive. */
  setTimer(
    callback: () => void,
    milliseconds: number,
    options?: { readonly background?: boolean },
  ): Timer;
}

/** What the core needs of its surroundings, besides transports. Every part has a portable default. */
export interface Runtime {
  /** Time, and timers. */
  readonly clock: Clock;
  /** Fills `bytes` with random bytes and returns it. */
  random(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
  /** Hashes by algorithm; a runtime's face supplies native ones. */
  readonly hashers: HasherFactory;
}

/** setTimeout fires at once for anything longer, so longer timers are laid in steps. */
const MAX_TIMEOUT_MS = 0x7fffffff;

/** The clock of the runtime: `performance.now` and `setTimeout`. */
export const systemClock: Clock = {
  now: () => performance.now(),
  setTimer(callback, milliseconds, options): Timer {
    let handle: ReturnType<typeof setTimeout>;
    const arm = (left: number): void => {
      handle =
        left > MAX_TIMEOUT_MS
          ? setTimeout(() => arm(left - MAX_TIMEOUT_MS), MAX_TIMEOUT_MS)
          : setTimeout(callback, Math.max(0, left));
      // Node, Bun and Deno return an object with `unref`; browsers and workers return a number and have no such notion.
      if (options?.background) (handle as { unref?: () => void }).unref?.();
    };
    arm(milliseconds);
    return { cancel: () => clearTimeout(handle) };
  },
};

/** The runtime that any web-standard JavaScript engine offers. */
export const portableRuntime: Runtime = {
  clock: systemClock,
  random: (bytes) => crypto.getRandomValues(bytes),
  hashers: portableHashers,
};

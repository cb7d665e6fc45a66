import { type HasherFactory, portableHashers } from "./digest/hasher.ts";

/** Pending timer. */
export interface Timer {
  /** Cancels the timer: its callback no longer runs. Idempotent. */
  cancel(): void;
}

/** Source of time and timers. The core receives it as a parameter, so that tests control time. */
export interface Clock {
  /** Returns a monotonic time in ms; its origin is arbitrary. */
  now(): number;
  /**
   * Calls `callback` once, after `milliseconds`.
   *
   * @param options `background` true: the timer does not keep the process alive. Default false
   */
  setTimer(
    callback: () => void,
    milliseconds: number,
    options?: { readonly background?: boolean },
  ): Timer;
}

/** Services that the core needs from its runtime, besides transports. */
export interface Runtime {
  /** Time and timers. */
  readonly clock: Clock;
  /** Fills `bytes` with random bytes and returns it. */
  random(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
  /** Hash functions by algorithm. Each runtime's entry point supplies native ones. */
  readonly hashers: HasherFactory;
}

/** Longest delay of `setTimeout`, in ms. It fires longer ones at once, so they run in steps. */
const MAX_TIMEOUT_MS = 0x7fffffff;

/** System clock: `performance.now` and `setTimeout`. */
export const systemClock: Clock = {
  now: () => performance.now(),
  setTimer(callback, milliseconds, options): Timer {
    let handle: ReturnType<typeof setTimeout>;
    const arm = (left: number): void => {
      handle =
        left > MAX_TIMEOUT_MS
          ? setTimeout(() => arm(left - MAX_TIMEOUT_MS), MAX_TIMEOUT_MS)
          : setTimeout(callback, Math.max(0, left));
      // Node, Bun and Deno return an object with `unref`. Browsers and workers return a number, and
      // have no background timers.
      if (options?.background) (handle as { unref?: () => void }).unref?.();
    };
    arm(milliseconds);
    return { cancel: () => clearTimeout(handle) };
  },
};

/** Runtime for any web-standard JavaScript engine. */
export const portableRuntime: Runtime = {
  clock: systemClock,
  random: (bytes) => crypto.getRandomValues(bytes),
  hashers: portableHashers,
};

import { type HasherFactory, portableHashers } from "./digest/hasher.ts";

/** Handle of a timer that has not fired yet. */
export interface Timer {
  /**
   * Cancels the timer, so that its callback does not run. Idempotent; does nothing after the
   * callback.
   */
  cancel(): void;
}

/**
 * Provides the time and timers. The core receives a clock as a parameter, so tests can replace it.
 */
export interface Clock {
  /** Returns the time in ms on a monotonic clock, counted from an arbitrary point. */
  now(): number;
  /**
   * Calls `callback` once, after `milliseconds`.
   *
   * @param options `background`: true if the timer must not keep the process alive. Default false
   */
  setTimer(
    callback: () => void,
    milliseconds: number,
    options?: { readonly background?: boolean },
  ): Timer;
}

/** Services that the core needs from its runtime, in addition to transports. */
export interface Runtime {
  /** Clock that provides the time and timers. */
  readonly clock: Clock;
  /** Fills `bytes` with cryptographically secure random bytes and returns it. */
  random(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
  /**
   * Function that creates a hasher for an algorithm. The entry point of each runtime supplies
   * native hash functions.
   */
  readonly hashers: HasherFactory;
}

/**
 * Maximum delay of `setTimeout`, in ms. `setTimeout` fires at once for a longer delay, so the clock
 * divides longer delays into steps.
 */
const MAX_TIMEOUT_MS = 0x7fffffff;

/** Clock of the system, based on `performance.now` and `setTimeout`. */
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

/**
 * Runtime services that need only web-standard functions, so they work in any JavaScript engine.
 */
export const portableRuntime: Runtime = {
  clock: systemClock,
  random: (bytes) => crypto.getRandomValues(bytes),
  hashers: portableHashers,
};

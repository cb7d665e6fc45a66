import { onAbort } from "./on-abort.ts";
import { requireInteger } from "./piece.ts";
import type { Clock } from "./runtime.ts";

/** Bytes; fewer are not worth a packet. */
const LEAST_PORTION = 1024;

/**
 * A token bucket: grants bytes at a steady rate, in the order in which they were asked for. One second's worth may be
 * taken at once after a pause.
 */
export class RateLimiter {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  #tokens: number;
  #refilledAt: number;
  #queue: Promise<void> = Promise.resolve();
  /** Has the one who waits for tokens look again. */
  #recount: (() => void) | undefined;

  /** @throws `InvalidArgument` unless `bytesPerSecond` is a positive integer */
  constructor(bytesPerSecond: number, clock: Clock) {
    requireInteger("bytes per second", bytesPerSecond, 1, Number.MAX_SAFE_INTEGER);
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#tokens = bytesPerSecond;
    this.#refilledAt = clock.now();
  }

  /**
   * The chunk in portions of an eighth of a second each, so that bytes keep coming at low rates and the peer does not take
   * the wait for a stall.
   */
  *portions(chunk: Uint8Array): Generator<Uint8Array, void, void> {
    const length = Math.max(LEAST_PORTION, Math.ceil(this.#bytesPerSecond / 8));
    for (let at = 0; at < chunk.length; at += length) yield chunk.subarray(at, at + length);
  }

  /** Resolves when `bytes` may pass, or when the signal fires; the caller looks at the signal afterwards. */
  take(bytes: number, signal: AbortSignal): Promise<void> {
    const turn = this.#queue.then(() => this.#wait(bytes, signal));
    this.#queue = turn;
    if (signal.aborted) return Promise.resolve();
    // Whoever gives up while others are before him in the queue does not wait for them.
    return new Promise((resolve) => {
      const settled = onAbort(signal, resolve);
      void turn.then(() => {
        settled();
        resolve();
      });
    });
  }

  async #wait(bytes: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const now = this.#clock.now();
    const earned = ((now - this.#refilledAt) / 1000) * this.#bytesPerSecond;
    this.#refilledAt = now;
    // The bucket may go below zero, so that a chunk larger than a second's worth passes and is paid for afterwards.
    this.#tokens = Math.min(this.#bytesPerSecond, this.#tokens + earned) - bytes;
    for (let enough = this.#tokens >= 0; !enough && !signal.aborted; ) enough = await this.#passed(signal);
    // What was not sent is not paid for.
    if (signal.aborted) this.#tokens += bytes;
  }

  /** Takes back what was granted and is not sent after all, for those who wait. */
  giveBack(bytes: number): void {
    this.#tokens = Math.min(this.#bytesPerSecond, this.#tokens + bytes);
    this.#recount?.();
  }

  /** Waits until the tokens are there; false when they are to be counted again before that. */
  async #passed(signal: AbortSignal): Promise<boolean> {
    const now = this.#clock.now();
    const missing = -this.#tokens - ((now - this.#refilledAt) / 1000) * this.#bytesPerSecond;
    if (missing <= 0) return true;
    return new Promise((resolve) => {
      const done = (passed: boolean): void => {
        timer.cancel();
        settled();
        this.#recount = undefined;
        resolve(passed);
      };
      const recount = (): void => done(false);
      const timer = this.#clock.setTimer(() => done(true), (missing / this.#bytesPerSecond) * 1000);
      const settled = onAbort(signal, recount);
      this.#recount = recount;
    });
  }
}

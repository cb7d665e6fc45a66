import type { RateLimiter } from "../rate-limiter.ts";

/** Minimum interval between two changes of the window, in ms. */
const RESIZE_INTERVAL_MS = 1000;

/** Options of a {@link PieceWindow}. */
export interface PieceWindowOptions {
  /** Rate limits that apply to the pieces. */
  readonly limiters: readonly Pick<RateLimiter, "rate" | "waitedAt">[];
  /** Length of the longest piece in bytes. */
  readonly pieceLength: number;
  /** Time in ms within which the rate limit must let all pieces in flight pass. */
  readonly passTimeMs: number;
  /** Maximum number of pieces in flight. */
  readonly maxPieces: number;
  /** Current time in ms. */
  readonly now: number;
}

/**
 * Limits the number of pieces in flight under a local rate limit. A server aborts an answer that
 * its peer does not read within the stall timeout. So the window starts with the pieces that the
 * limit lets pass in a fraction of that time.
 *
 * If the parents turn out to be slower than the limit, the window grows by one piece per second. It
 * shrinks by one when the limit delays pieces again.
 */
export class PieceWindow {
  readonly #options: PieceWindowOptions;
  /** Initial and minimum size. */
  readonly #minSize: number;
  /** Current number of pieces that may be in flight. */
  #size: number;
  /** Time of the last change, in ms. */
  #changedAt: number;

  constructor(options: PieceWindowOptions) {
    const { limiters, pieceLength, passTimeMs, maxPieces, now } = options;
    this.#options = options;
    const rate = Math.min(...limiters.map((limiter) => limiter.rate));
    const passing = Math.floor((rate * passTimeMs) / 1000 / pieceLength);
    this.#minSize = Math.min(maxPieces, Math.max(1, passing));
    this.#size = this.#minSize;
    this.#changedAt = now;
  }

  /** Returns the maximum number of pieces in flight at the time `now`, in ms. */
  size(now: number): number {
    const { limiters, maxPieces } = this.#options;
    if (now - this.#changedAt < RESIZE_INTERVAL_MS) return this.#size;
    const waited = limiters.some(({ waitedAt }) => waitedAt > this.#changedAt);
    this.#size = Math.min(maxPieces, Math.max(this.#minSize, this.#size + (waited ? -1 : 1)));
    this.#changedAt = now;
    return this.#size;
  }

  /** Time in ms at which the window may grow; undefined at its maximum. */
  get changesAt(): number | undefined {
    return this.#size < this.#options.maxPieces ? this.#changedAt + RESIZE_INTERVAL_MS : undefined;
  }
}

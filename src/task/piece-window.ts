import type { RateLimiter } from "../rate-limiter.ts";

/** Minimum interval between two changes of the window size, in ms. */
const RESIZE_INTERVAL_MS = 1000;

/** Options of a {@link PieceWindow}. */
export interface PieceWindowOptions {
  /** Rate limiters that the received bytes of the pieces must pass. */
  readonly limiters: readonly Pick<RateLimiter, "rate" | "waitedAt">[];
  /** Length of the longest piece in bytes. */
  readonly pieceLength: number;
  /**
   * Maximum time in ms that all pieces in flight may take to pass the rate limit. It determines the
   * initial window size.
   */
  readonly passTimeMs: number;
  /** Maximum window size, in pieces. */
  readonly maxPieces: number;
  /** Current time, in ms on the monotonic clock. */
  readonly now: number;
}

/**
 * Limits the number of pieces in flight under a local rate limit.
 *
 * A server aborts a response that its peer does not read within the stall timeout. So the initial
 * limit is the number of pieces that the rate limit lets pass within `passTimeMs`, but at least
 * one.
 *
 * The limit grows by one piece per second while the rate limit delays no piece, because the parents
 * are slower. It shrinks by one piece per second, down to its initial value, while the rate limit
 * delays pieces.
 */
export class PieceWindow {
  /** Options of the window. */
  readonly #options: PieceWindowOptions;
  /** Initial and minimum window size, in pieces. */
  readonly #minSize: number;
  /** Current maximum number of pieces in flight. */
  #size: number;
  /** Time of the last check whether to change the window size, in ms on the monotonic clock. */
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

  /**
   * Returns the maximum number of pieces in flight at time `now`, in ms on the monotonic clock.
   * Changes the window size if the last check was at least one second before.
   */
  size(now: number): number {
    const { limiters, maxPieces } = this.#options;
    if (now - this.#changedAt < RESIZE_INTERVAL_MS) return this.#size;
    const waited = limiters.some(({ waitedAt }) => waitedAt > this.#changedAt);
    this.#size = Math.min(maxPieces, Math.max(this.#minSize, this.#size + (waited ? -1 : 1)));
    this.#changedAt = now;
    return this.#size;
  }

  /**
   * Time at which the window size may change next, in ms on the monotonic clock. Undefined while
   * the window has its maximum size.
   */
  get changesAt(): number | undefined {
    return this.#size < this.#options.maxPieces ? this.#changedAt + RESIZE_INTERVAL_MS : undefined;
  }
}

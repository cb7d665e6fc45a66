import type { RateLimiter } from "../rate-limiter.ts";

/** Milliseconds between two changes of the window. */
const RESIZE_INTERVAL_MS = 1000;

/** What a {@link PieceWindow} is told. */
export interface PieceWindowOptions {
  /** Rate limits that hold for the pieces. */
  readonly limiters: readonly Pick<RateLimiter, "rate" | "waitedAt">[];
  /** Bytes of the longest piece. */
  readonly pieceLength: number;
  /** Milliseconds in which a rate limit lets all pieces pass that are under way. */
  readonly passTimeMs: number;
  /** Greatest number of pieces under way. */
  readonly maxPieces: number;
  /** Milliseconds, as all times here. */
  readonly now: number;
}

/**
 * Number of pieces under way under a rate limit of our own. A server ends an answer that its peer does not take for its stall timeout, so
 * no more pieces begin than the limit lets pass within a part of that. Where parents turn out to be slower than the limit, the
 * window grows by a piece a second, and shrinks by one when the limit holds pieces back again.
 */
export class PieceWindow {
  readonly #options: PieceWindowOptions;
  readonly #minSize: number;
  #size: number;
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

  /** Pieces that may be under way. */
  size(now: number): number {
    const { limiters, maxPieces } = this.#options;
    if (now - this.#changedAt < RESIZE_INTERVAL_MS) return this.#size;
    const waited = limiters.some(({ waitedAt }) => waitedAt > this.#changedAt);
    this.#size = Math.min(maxPieces, Math.max(this.#minSize, this.#size + (waited ? -1 : 1)));
    this.#changedAt = now;
    return this.#size;
  }

  /** When the size may grow; undefined when it cannot. */
  get changesAt(): number | undefined {
    return this.#size < this.#options.maxPieces ? this.#changedAt + RESIZE_INTERVAL_MS : undefined;
  }
}

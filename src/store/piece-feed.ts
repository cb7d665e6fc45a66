import { abortedError, type VortexError } from "../errors.ts";
import type { PieceMetadata } from "../piece.ts";

/** Piece with its index in the order of arrival. */
interface Entry {
  readonly piece: PieceMetadata;
  readonly arrival: number;
}

/**
 * Growing list of the pieces of one task. Implements `StoredTask.pieces` and `StoredTask.watch`.
 * All watchers read from the same lists, so a slow one takes no memory and delays no other.
 */
export class PieceFeed {
  readonly #taskId: string;
  /** Pieces in the order of arrival. */
  readonly #log: PieceMetadata[] = [];
  /** Pieces by ascending number. */
  readonly #sorted: Entry[] = [];
  readonly #waiting = new Set<() => void>();
  #ended = false;
  #failure: VortexError | undefined;

  constructor(taskId: string) {
    this.#taskId = taskId;
  }

  /** True once all pieces are present. */
  get ended(): boolean {
    return this.#ended && this.#failure === undefined;
  }

  /** True once the task has been abandoned, see {@link fail}. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Adds a piece, which must not be present yet. Does nothing after the end of the feed. */
  add(piece: PieceMetadata): void {
    if (this.#ended) return;
    const index = this.#indexOf(piece.number);
    this.#sorted.splice(index, 0, { piece, arrival: this.#log.length });
    this.#log.push(piece);
    this.#wake();
  }

  /** Ends the feed: all pieces are present. */
  complete(): void {
    this.#ended = true;
    this.#wake();
  }

  /** Abandons the task. Watchers throw `error` after the pieces that are present. */
  fail(error: VortexError): void {
    if (this.#ended) return;
    this.#failure = error;
    this.complete();
  }

  /** Returns the pieces so far by ascending number, see `StoredTask.pieces`. */
  pieces(): PieceMetadata[] {
    return this.#sorted.map(({ piece }) => piece);
  }

  /** Yields the pieces so far by ascending number, then further ones, see `StoredTask.watch`. */
  async *watch({
    signal,
  }: {
    readonly signal: AbortSignal;
  }): AsyncGenerator<PieceMetadata, void, void> {
    const initial = this.#log.length;
    // Pieces may arrive between two iterations, so look up the next number again each time, and
    // leave later arrivals to the second loop.
    for (
      let entry = this.#sorted[0];
      entry !== undefined;
      entry = this.#sorted[this.#indexOf(entry.piece.number + 1)]
    ) {
      if (entry.arrival < initial) yield entry.piece;
    }
    for (let at = initial; ; at++) {
      while (at >= this.#log.length && !this.#ended && !signal.aborted) await this.#change(signal);
      if (signal.aborted) throw abortedError(signal, `watching the pieces of task ${this.#taskId}`);
      const piece = this.#log[at];
      if (piece === undefined) break;
      yield piece;
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Resolves on the next change of the feed, or when `signal` aborts. */
  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }

  /** Returns the index in `#sorted` of the first piece with `number` or a higher one. */
  #indexOf(number: number): number {
    let [low, high] = [0, this.#sorted.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#sorted[middle]?.piece.number ?? Number.POSITIVE_INFINITY) < number)
        low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

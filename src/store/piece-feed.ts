import { abortedError, type VortexError } from "../errors.ts";
import type { PieceMetadata } from "../piece.ts";

/** Piece, and its index in the order in which the pieces arrived. */
interface Entry {
  readonly piece: PieceMetadata;
  readonly arrival: number;
}

/**
 * Growing list of the pieces of one task, which implements `StoredTask.pieces` and
 * `StoredTask.watch`. All calls of `watch` read from the same list. So a slow reader does not need
 * a separate buffer, and does not delay other readers.
 */
export class PieceFeed {
  readonly #taskId: string;
  /** Pieces in the order in which they arrived. */
  readonly #log: PieceMetadata[] = [];
  /** Pieces in ascending order of their numbers. */
  readonly #sorted: Entry[] = [];
  readonly #waiting = new Set<() => void>();
  #ended = false;
  #failure: VortexError | undefined;

  constructor(taskId: string) {
    this.#taskId = taskId;
  }

  /** True once all pieces of the task are present. False for an abandoned task. */
  get ended(): boolean {
    return this.#ended && this.#failure === undefined;
  }

  /** True once {@link fail} has abandoned the task. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /**
   * Adds a piece with a number that is not in the list yet. Does nothing after {@link complete} or
   * {@link fail}.
   */
  add(piece: PieceMetadata): void {
    if (this.#ended) return;
    const index = this.#indexOf(piece.number);
    this.#sorted.splice(index, 0, { piece, arrival: this.#log.length });
    this.#log.push(piece);
    this.#wake();
  }

  /**
   * Marks the task as complete: all pieces are present. Iterations over {@link watch} end after the
   * last piece.
   */
  complete(): void {
    this.#ended = true;
    this.#wake();
  }

  /**
   * Abandons the task. Iterations over {@link watch} throw `error` after the pieces that are
   * present. Does nothing after {@link complete}.
   */
  fail(error: VortexError): void {
    if (this.#ended) return;
    this.#failure = error;
    this.complete();
  }

  /**
   * Returns the pieces that are present, in ascending order of their numbers. See
   * `StoredTask.pieces`.
   */
  pieces(): PieceMetadata[] {
    return this.#sorted.map(({ piece }) => piece);
  }

  /**
   * Yields the pieces that are present in ascending order of their numbers, then each further piece
   * when it arrives. See `StoredTask.watch` for the end of the iteration.
   */
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

  /** Resolves when a piece arrives, the list ends, or `signal` aborts. */
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

  /**
   * Returns the index in `#sorted` of the first piece whose number is at least `number`. Returns
   * the length of `#sorted` if there is no such piece.
   */
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

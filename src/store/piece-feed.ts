import { abortedError, type VortexError } from "../errors.ts";
import type { PieceMetadata } from "../piece.ts";

/** A piece, and its place among all in the order in which they came. */
interface Entry {
  readonly piece: PieceMetadata;
  readonly at: number;
}

/**
 * The pieces of one task that a store has, as they come: what `StoredTask.pieces` and `StoredTask.watch` of a growing task
 * are made of. Watchers read from the same lists, so a slow one costs no memory and holds nobody up.
 */
export class PieceFeed {
  readonly #taskId: string;
  /** In the order in which they came. */
  readonly #log: PieceMetadata[] = [];
  /** By ascending number. */
  readonly #sorted: Entry[] = [];
  readonly #waiting = new Set<() => void>();
  #ended = false;
  #failure: VortexError | undefined;

  constructor(taskId: string) {
    this.#taskId = taskId;
  }

  /** Whether no further pieces come, since all are there. */
  get ended(): boolean {
    return this.#ended && this.#failure === undefined;
  }

  /** Whether the task was given up. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Tells of a piece; one that is there already must not be added again. Nothing comes after the end. */
  add(piece: PieceMetadata): void {
    if (this.#ended) return;
    this.#sorted.splice(this.#placeOf(piece.number), 0, { piece, at: this.#log.length });
    this.#log.push(piece);
    this.#wake();
  }

  /** No further pieces come. */
  complete(): void {
    this.#ended = true;
    this.#wake();
  }

  /** The task is given up: watchers fail with `error` after what came before. */
  fail(error: VortexError): void {
    if (this.#ended) return;
    this.#failure = error;
    this.complete();
  }

  /** See `StoredTask.pieces`. */
  pieces(): PieceMetadata[] {
    return this.#sorted.map(({ piece }) => piece);
  }

  /** See `StoredTask.watch`. */
  async *watch({
    signal,
  }: {
    readonly signal: AbortSignal;
  }): AsyncGenerator<PieceMetadata, void, void> {
    const there = this.#log.length;
    // More may have come before the next is asked for, among those that are still to be told.
    for (
      let entry = this.#sorted[0];
      entry !== undefined;
      entry = this.#sorted[this.#placeOf(entry.piece.number + 1)]
    ) {
      if (entry.at < there) yield entry.piece;
    }
    for (let at = there; ; at++) {
      while (at >= this.#log.length && !this.#ended && !signal.aborted) await this.#change(signal);
      if (signal.aborted) throw abortedError(signal, `watching the pieces of task ${this.#taskId}`);
      const piece = this.#log[at];
      if (piece === undefined) break;
      yield piece;
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

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

  /** Where the first piece stands in the order of numbers whose number is `number` or more. */
  #placeOf(number: number): number {
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

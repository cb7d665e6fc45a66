import { abortedError, type VortexError } from "../errors.ts";
import type { PieceMetadata } from "../piece.ts";

/**
 * The pieces of one task that a store has, as they come: what `StoredTask.pieces` and `StoredTask.watch` of a growing task
 * are made of. Watchers read from one list, so a slow one costs no memory and holds nobody up.
 */
export class PieceFeed {
  readonly #taskId: string;
  /** In the order in which they came. */
  readonly #log: PieceMetadata[] = [];
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
    return this.#log.toSorted(byNumber);
  }

  /** See `StoredTask.watch`. */
  async *watch({ signal }: { readonly signal: AbortSignal }): AsyncGenerator<PieceMetadata, void, void> {
    const there = this.pieces();
    yield* there;
    for (let at = there.length; ; at++) {
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
}

function byNumber(a: PieceMetadata, b: PieceMetadata): number {
  return a.number - b.number;
}

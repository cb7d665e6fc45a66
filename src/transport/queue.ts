/**
 * Unbounded first-in, first-out queue. Event callbacks add items, and one `for await` loop removes
 * them.
 */
export class AsyncQueue<T> implements AsyncIterable<T> {
  #items: T[] = [];
  #ended = false;
  #wake: (() => void) | undefined;

  /**
   * Adds an item to the end of the queue. Returns false and drops the item if {@link end} was
   * called, or the reader left its `for await` loop over the queue.
   */
  push(item: T): boolean {
    if (this.#ended) return false;
    this.#items.push(item);
    this.#wake?.();
    return true;
  }

  /**
   * Ends the queue. The `for await` loop still receives the queued items, then finishes.
   * Idempotent.
   */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, void> {
    try {
      for (;;) {
        const item = this.#items.shift();
        if (item !== undefined) {
          yield item;
        } else if (this.#ended) {
          return;
        } else {
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
          this.#wake = undefined;
        }
      }
    } finally {
      this.#ended = true;
    }
  }
}

/** Unbounded queue, filled from events and drained by one `for await` loop. */
export class AsyncQueue<T> implements AsyncIterable<T> {
  #items: T[] = [];
  #ended = false;
  #wake: (() => void) | undefined;

  /** Adds an item. Returns false, without adding it, once the queue has ended. */
  push(item: T): boolean {
    if (this.#ended) return false;
    this.#items.push(item);
    this.#wake?.();
    return true;
  }

  /** Ends the queue: the loop finishes after the items that are queued. Idempotent. */
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

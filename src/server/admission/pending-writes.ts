import { VortexError } from "../../errors.ts";

/** Bytes of a write that are not worth counting. */
const FEW = 4096;

interface Waiting {
  readonly bytes: number;
  readonly giveUp: () => void;
}

/**
 * What waits for its readers, over all answers of a server. Each answer holds a chunk, and peers may ask for as many as there are
 * streams and connections; so when all hold more than there may be, the one that has waited for longest gives way, before its own
 * timeout.
 */
export class PendingWriteBudget {
  readonly #most: number;
  #bytes = 0;
  /** The longest waiting first. */
  readonly #waiting = new Set<Waiting>();

  /** @param most bytes that may wait at a time; a single answer may hold more */
  constructor(most: number) {
    this.#most = most;
  }

  /** Bytes that wait now. */
  get bytes(): number {
    return this.#bytes;
  }

  /** What `taking` settles with, the end of a write of so many bytes; or `Stalled`, when others need the memory. */
  hold<T>(bytes: number, taking: Promise<T>): Promise<T> {
    if (bytes <= FEW) return taking;
    return new Promise((resolve, reject) => {
      const waiting: Waiting = {
        bytes,
        giveUp: () => {
          this.#forget(waiting);
          reject(
            new VortexError("Stalled", "waiting for the peer to read: others need the memory"),
          );
        },
      };
      this.#waiting.add(waiting);
      this.#bytes += bytes;
      const settled = (): void => this.#forget(waiting);
      taking.finally(settled).then(resolve, reject);
      this.#trim();
    });
  }

  #forget(waiting: Waiting): void {
    if (this.#waiting.delete(waiting)) this.#bytes -= waiting.bytes;
  }

  #trim(): void {
    for (const waiting of this.#waiting) {
      if (this.#bytes <= this.#most || this.#waiting.size === 1) return;
      waiting.giveUp();
    }
  }
}

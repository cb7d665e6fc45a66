import { VortexError } from "../../errors.ts";

/** Maximum size of a write that is not counted, in bytes: small ones are not worth tracking. */
const UNCOUNTED_BYTES = 4096;

interface PendingWrite {
  readonly bytes: number;
  /** Rejects the write, to free its memory. */
  readonly evict: () => void;
}

/**
 * Memory limit for chunks that wait for their peer to read, over all answers of a server. Each
 * answer holds one chunk, and peers can request as many answers as there are streams and
 * connections. Over the limit, the write that has waited for longest is evicted, before its stall
 * timeout.
 */
export class PendingWriteBudget {
  readonly #maxBytes: number;
  #bytes = 0;
  /** Pending writes, the longest waiting first. */
  readonly #pending = new Set<PendingWrite>();

  /** @param maxBytes maximum number of pending bytes; a single write may exceed it */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Number of pending bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Counts a write of `bytes` until `writing` settles. Settles as `writing` does, or rejects with
   * `Stalled` when the write is evicted.
   */
  hold<T>(bytes: number, writing: Promise<T>): Promise<T> {
    if (bytes <= UNCOUNTED_BYTES) return writing;
    return new Promise((resolve, reject) => {
      const write: PendingWrite = {
        bytes,
        evict: () => {
          this.#release(write);
          reject(
            new VortexError(
              "Stalled",
              `waiting for the peer to read: over ${this.#maxBytes} bytes wait (maxPendingBytes)`,
            ),
          );
        },
      };
      this.#pending.add(write);
      this.#bytes += bytes;
      const settled = (): void => this.#release(write);
      writing.finally(settled).then(resolve, reject);
      this.#enforceLimit();
    });
  }

  #release(write: PendingWrite): void {
    if (this.#pending.delete(write)) this.#bytes -= write.bytes;
  }

  #enforceLimit(): void {
    for (const write of this.#pending) {
      if (this.#bytes <= this.#maxBytes || this.#pending.size === 1) return;
      write.evict();
    }
  }
}

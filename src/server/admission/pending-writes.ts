import { VortexError } from "../../errors.ts";

/**
 * Maximum length in bytes of a write that {@link PendingWriteBudget} does not count. Such small
 * writes take little memory.
 */
const UNCOUNTED_BYTES = 4096;

interface PendingWrite {
  readonly bytes: number;
  /** Rejects the promise of the write with `Stalled`, so that the memory of its chunk is freed. */
  readonly evict: () => void;
}

/**
 * Limits the memory for chunks that wait until their peer reads, over all responses of a server.
 * Each response holds one chunk, and peers can request as many responses as there are streams and
 * connections. When the limit is exceeded, evicts the write that has waited for longest, without
 * waiting for its stall timeout.
 */
export class PendingWriteBudget {
  readonly #maxBytes: number;
  #bytes = 0;
  /** Writes that have not settled yet, in the order in which they started. */
  readonly #pending = new Set<PendingWrite>();

  /**
   * @param maxBytes maximum total length of all pending writes, in bytes. A single write may exceed
   * it if no other write is pending
   */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Total length of all pending writes, in bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Counts a write of `bytes` bytes as pending until `writing` settles. Returns a promise that
   * settles like `writing`. It rejects with `Stalled` if the write is evicted because the limit is
   * exceeded.
   *
   * @param writing promise of the write
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

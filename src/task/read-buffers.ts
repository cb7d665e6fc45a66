/** Length of a buffer in bytes, and so of one write to a file. */
export const READ_BUFFER_BYTES: number = 256 * 1024;

/**
 * Pool of buffers that the content of pieces is read into. Attempts reuse each other's buffers, so
 * the pool never holds more buffers than there were concurrent attempts.
 */
export class ReadBuffers {
  readonly #free: Uint8Array[] = [];

  /** Takes a buffer from the pool, or allocates one. */
  take(): Uint8Array {
    return this.#free.pop() ?? new Uint8Array(READ_BUFFER_BYTES);
  }

  /** Puts a buffer back into the pool, once nothing reads or writes it any more. */
  give(buffer: Uint8Array): void {
    this.#free.push(buffer);
  }
}

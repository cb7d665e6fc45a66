/** Length of one buffer in bytes. Content is written to a file in chunks of this length. */
export const READ_BUFFER_BYTES: number = 256 * 1024;

/**
 * Pool of buffers that received content is collected in. Attempts reuse the buffers of earlier
 * attempts, so the pool never contains more buffers than the maximum number of concurrent attempts
 * so far.
 */
export class ReadBuffers {
  /** Unused buffers. */
  readonly #free: Uint8Array<ArrayBuffer>[] = [];

  /**
   * Removes a buffer from the pool and returns it. If the pool is empty, allocates a buffer of
   * {@link READ_BUFFER_BYTES}.
   */
  take(): Uint8Array<ArrayBuffer> {
    return this.#free.pop() ?? new Uint8Array(READ_BUFFER_BYTES);
  }

  /** Returns a buffer to the pool. No operation may read from or write to the buffer any more. */
  give(buffer: Uint8Array<ArrayBuffer>): void {
    this.#free.push(buffer);
  }
}

/** Bytes of one buffer: a write of a file is as long. */
export const READ_BUFFER_BYTES: number = 256 * 1024;

/**
 * Memory that the content of pieces is read into. What one attempt gives back the next one takes, so there are never more
 * buffers than attempts at a time.
 */
export class ReadBuffers {
  readonly #free: Uint8Array[] = [];

  take(): Uint8Array {
    return this.#free.pop() ?? new Uint8Array(READ_BUFFER_BYTES);
  }

  /** Gives a buffer back that nobody writes to, or reads from, any more. */
  give(buffer: Uint8Array): void {
    this.#free.push(buffer);
  }
}

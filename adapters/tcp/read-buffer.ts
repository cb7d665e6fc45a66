/** Size of a buffer, in bytes: the kernel delivers that much in one read. */
const BUFFER_BYTES = 256 * 1024;
/** Max buffers of closed sockets that are kept for reuse. */
const MAX_SPARE_BUFFERS = 16;

const spare: Uint8Array[] = [];

/**
 * Buffer that one socket reuses for all reads. Otherwise node:net allocates 64 KiB for each read,
 * which costs more than the copy from this buffer to the reader's memory. Reused by another socket
 * after close.
 */
export class ReadBuffer {
  /** Memory that node:net reads into. */
  readonly memory: Uint8Array = spare.pop() ?? new Uint8Array(BUFFER_BYTES);
  /**
   * Called when the socket has filled the buffer. Returns true if the socket may fill it again at
   * once. Until it is set, received bytes stay in the buffer.
   */
  onBytes: () => boolean = () => false;
  #bytes: Uint8Array = this.memory.subarray(0, 0);
  #closed = false;
  #recycled = false;

  /** True if the buffer contains unread bytes. */
  get hasBytes(): boolean {
    return this.#bytes.length > 0;
  }

  /** Records that the socket has read `length` bytes. Returns the result of {@link onBytes}. */
  fill(length: number): boolean {
    this.#bytes = this.memory.subarray(0, length);
    return this.onBytes();
  }

  /**
   * Copies as many bytes as fit to `into`, or all bytes to a new array. Returns the copied part.
   */
  take(into: Uint8Array | undefined): Uint8Array {
    const length = Math.min(this.#bytes.length, into?.length ?? this.#bytes.length);
    const part = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    if (into === undefined) {
      const copy = part.slice();
      this.#recycle();
      return copy;
    }
    into.set(part);
    this.#recycle();
    return into.subarray(0, length);
  }

  /** Discards the unread bytes. */
  drop(): void {
    this.#bytes = this.#bytes.subarray(0, 0);
    this.#recycle();
  }

  /** Marks the socket as closed. Unread bytes can still be taken; then the memory is reused. */
  close(): void {
    this.#closed = true;
    this.#recycle();
  }

  #recycle(): void {
    if (!this.#closed || this.#recycled || this.hasBytes) return;
    this.#recycled = true;
    if (spare.length < MAX_SPARE_BUFFERS) spare.push(this.memory);
  }
}

/** Size of a read buffer in bytes: the max length of one read from the kernel. */
const BUFFER_BYTES = 256 * 1024;
/**
 * Max number of read buffers of closed sockets that are kept for reuse. Further buffers are left to
 * the garbage collector.
 */
const MAX_SPARE_BUFFERS = 16;

const spare: Uint8Array<ArrayBuffer>[] = [];

/**
 * Buffer that one socket reuses for all of its reads. Without it, node:net allocates 64 KiB for
 * each read, which costs more than copying the bytes from this buffer. After the socket is closed,
 * another socket reuses the memory.
 */
export class ReadBuffer {
  /** Memory that node:net fills with received bytes. */
  readonly memory: Uint8Array<ArrayBuffer> = spare.pop() ?? new Uint8Array(BUFFER_BYTES);
  /**
   * Called when the socket has put received bytes into the buffer. Returns true if the socket may
   * overwrite the buffer with the next read, or false to pause the socket. Default: returns false,
   * so that received bytes stay in the buffer until a callback is set.
   */
  onBytes: () => boolean = () => false;
  #bytes: Uint8Array<ArrayBuffer> = this.memory.subarray(0, 0);
  #closed = false;
  #recycled = false;

  /** Number of unread bytes in the buffer. */
  get unread(): number {
    return this.#bytes.length;
  }

  /** True if the buffer contains unread bytes. */
  get hasBytes(): boolean {
    return this.#bytes.length > 0;
  }

  /**
   * Records that the socket has read `length` bytes into the buffer, and calls {@link onBytes}.
   * Returns true if the socket may overwrite the buffer with the next read.
   */
  fill(length: number): boolean {
    this.#bytes = this.memory.subarray(0, length);
    return this.onBytes();
  }

  /**
   * Copies unread bytes out of the buffer, and returns the copy. Fills `into` as far as possible,
   * and returns the filled part. Without `into`, copies all unread bytes to a new array.
   */
  take(into: Uint8Array<ArrayBuffer> | undefined): Uint8Array<ArrayBuffer> {
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

  /** Discards the unread bytes of the buffer. */
  drop(): void {
    this.#bytes = this.#bytes.subarray(0, 0);
    this.#recycle();
  }

  /**
   * Records that the socket is closed. Unread bytes can still be taken; afterwards another socket
   * may reuse the memory.
   */
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

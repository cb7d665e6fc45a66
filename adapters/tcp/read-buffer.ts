/** Bytes of one: the kernel hands over as much at a time. */
const SIZE = 256 * 1024;
/** Buffers of closed sockets that are kept for those to come. */
const MAX_SPARE = 16;

const spare: Uint8Array[] = [];

/**
 * Memory that one socket reads to again and again, where node:net would allocate 64 KiB for each read: that costs more than the copy
 * from here to where the reader wants the bytes. It goes to another socket after this one.
 */
export class ReadBuffer {
  /** What node:net reads to. */
  readonly memory: Uint8Array = spare.pop() ?? new Uint8Array(SIZE);
  /** Called when the buffer was filled; true when the socket may fill it again at once. Until it is set, what comes waits. */
  onBytes: () => boolean = () => false;
  #bytes: Uint8Array = this.memory.subarray(0, 0);
  #closed = false;
  #recycled = false;

  /** Whether bytes are in it that nobody has taken. */
  get filled(): boolean {
    return this.#bytes.length > 0;
  }

  /** The socket has written so many bytes. */
  fill(length: number): boolean {
    this.#bytes = this.memory.subarray(0, length);
    return this.onBytes();
  }

  /** As many bytes as fit in `into`, there; or all of them, in memory of their own. */
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

  /** Forgets the bytes that nobody has taken. */
  drop(): void {
    this.#bytes = this.#bytes.subarray(0, 0);
    this.#recycle();
  }

  /** The socket is closed, and writes no more; what it has written can still be taken. */
  close(): void {
    this.#closed = true;
    this.#recycle();
  }

  #recycle(): void {
    if (!this.#closed || this.#recycled || this.filled) return;
    this.#recycled = true;
    if (spare.length < MAX_SPARE) spare.push(this.memory);
  }
}

import { VortexError } from "../errors.ts";
import type { SinkLayout } from "./sink.ts";

/**
 * Stores the bytes of pieces in memory. The buffer of a piece is allocated at its first byte, with
 * the length of its requested part. The memory of deleted pieces is reused, since garbage
 * collectors free large buffers late.
 */
export class PieceBuffers {
  /** Layout of the requested content. */
  readonly #layout: SinkLayout;
  /** Bytes of the requested part, by piece number. */
  readonly #buffers = new Map<number, Uint8Array<ArrayBuffer>>();
  /** Memory of deleted pieces, for reuse. */
  readonly #free: ArrayBuffer[] = [];

  constructor(layout: SinkLayout) {
    this.#layout = layout;
  }

  /**
   * Stores bytes of piece `number`. The first byte of `chunk` is byte `position` of the requested
   * content.
   */
  write(number: number, position: number, chunk: Uint8Array): void {
    const part = this.#part(number);
    let buffer = this.#buffers.get(number);
    if (buffer === undefined) {
      buffer = this.#take(part.length);
      this.#buffers.set(number, buffer);
    }
    buffer.set(chunk, position - part.position);
  }

  /**
   * Returns up to `length` bytes of piece `number`, starting at byte `position` of the requested
   * content. The returned chunk shares memory with the buffer of the piece, so it is valid until
   * the piece is deleted.
   */
  read(number: number, position: number, length: number): Uint8Array<ArrayBuffer> {
    const from = position - this.#part(number).position;
    const bytes = this.get(number).subarray(from, from + length);
    if (bytes.length === 0)
      throw new VortexError("Internal", `reading piece ${number}: no byte at position ${position}`);
    return bytes;
  }

  /** Returns true if any byte of the piece is stored. */
  has(number: number): boolean {
    return this.#buffers.has(number);
  }

  /** Returns all bytes of the requested part of a piece, without copying them. */
  get(number: number): Uint8Array<ArrayBuffer> {
    const buffer = this.#buffers.get(number);
    if (buffer === undefined)
      throw new VortexError("Internal", `reading piece ${number}: not in memory`);
    return buffer;
  }

  /** Deletes the bytes of a piece. Its memory is reused for other pieces. */
  delete(number: number): void {
    const buffer = this.#buffers.get(number);
    if (buffer === undefined) return;
    this.#buffers.delete(number);
    this.#free.push(buffer.buffer);
  }

  /** Deletes all pieces and frees their memory. */
  clear(): void {
    this.#buffers.clear();
    this.#free.length = 0;
  }

  /**
   * Returns memory of `length` bytes. Reuses the memory of a deleted piece if that is long enough.
   */
  #take(length: number): Uint8Array<ArrayBuffer> {
    const memory = this.#free.pop();
    // All pieces of a task have the same length, except the first and last. If the caller listed
    // pieces of varying lengths, reused memory may be too short, and is dropped.
    return memory !== undefined && memory.byteLength >= length
      ? new Uint8Array(memory, 0, length)
      : new Uint8Array(length);
  }

  /** Returns position and length of the requested part of a piece, in bytes. */
  #part(number: number): { readonly position: number; readonly length: number } {
    const part = this.#layout.part(number);
    if (part === undefined)
      throw new VortexError("Internal", `writing piece ${number}: outside the requested range`);
    return part;
  }
}

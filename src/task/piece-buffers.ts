import { VortexError } from "../errors.ts";
import type { SinkLayout } from "./sink.ts";

/**
 * Keeps the bytes of pieces in memory. A buffer is allocated at the first byte of a piece, with the
 * length of the requested part. The memory of deleted pieces is reused, since garbage collectors
 * free large buffers late.
 */
export class PieceBuffers {
  readonly #layout: SinkLayout;
  readonly #buffers = new Map<number, Uint8Array<ArrayBuffer>>();
  /** Memory of deleted pieces, for reuse. */
  readonly #free: ArrayBuffer[] = [];

  constructor(layout: SinkLayout) {
    this.#layout = layout;
  }

  /** Stores bytes of a piece, see `SinkSession.write`. */
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
   * Returns bytes of a piece, see `SinkSession.read`. The chunk is a view of the piece's memory,
   * and valid until the piece is deleted.
   */
  read(number: number, position: number, length: number): Uint8Array {
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

  /** Returns the whole memory of a piece. */
  get(number: number): Uint8Array {
    const buffer = this.#buffers.get(number);
    if (buffer === undefined)
      throw new VortexError("Internal", `reading piece ${number}: not in memory`);
    return buffer;
  }

  /** Deletes a piece and keeps its memory for reuse. */
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

  /** Returns memory of `length` bytes, reused if possible. */
  #take(length: number): Uint8Array<ArrayBuffer> {
    const memory = this.#free.pop();
    // All pieces of a task have the same length, except those at its ends. With a list of varying
    // lengths, reused memory may be too short, and is dropped.
    return memory !== undefined && memory.byteLength >= length
      ? new Uint8Array(memory, 0, length)
      : new Uint8Array(length);
  }

  #part(number: number): { readonly position: number; readonly length: number } {
    const part = this.#layout.part(number);
    if (part === undefined)
      throw new VortexError("Internal", `writing piece ${number}: outside the requested range`);
    return part;
  }
}

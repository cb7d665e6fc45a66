import { VortexError } from "../errors.ts";
import type { SinkLayout } from "./sink.ts";

/**
 * The bytes of pieces, in memory. A buffer is taken at a piece's first byte, and never longer than the longest piece. The memory
 * of a piece that is deleted is used again for another one: what collectors free late would add up otherwise.
 */
export class PieceBuffers {
  readonly #layout: SinkLayout;
  readonly #buffers = new Map<number, Uint8Array<ArrayBuffer>>();
  /** Memory of pieces that were deleted. */
  readonly #free: ArrayBuffer[] = [];

  constructor(layout: SinkLayout) {
    this.#layout = layout;
  }

  /** See `SinkSession.write`. */
  write(number: number, position: number, chunk: Uint8Array): void {
    const part = this.#part(number);
    let buffer = this.#buffers.get(number);
    if (buffer === undefined) {
      buffer = this.#take(part.length);
      this.#buffers.set(number, buffer);
    }
    buffer.set(chunk, position - part.position);
  }

  /** See `SinkSession.read`. The chunk is a part of the piece's own memory, and good until the piece is deleted. */
  read(number: number, position: number, length: number): Uint8Array {
    const from = position - this.#part(number).position;
    const bytes = this.get(number).subarray(from, from + length);
    if (bytes.length === 0)
      throw new VortexError("Internal", `piece ${number} has no byte at ${position}`);
    return bytes;
  }

  has(number: number): boolean {
    return this.#buffers.has(number);
  }

  get(number: number): Uint8Array {
    const buffer = this.#buffers.get(number);
    if (buffer === undefined) throw new VortexError("Internal", `piece ${number} is not in memory`);
    return buffer;
  }

  delete(number: number): void {
    const buffer = this.#buffers.get(number);
    if (buffer === undefined) return;
    this.#buffers.delete(number);
    this.#free.push(buffer.buffer);
  }

  clear(): void {
    this.#buffers.clear();
    this.#free.length = 0;
  }

  #take(length: number): Uint8Array<ArrayBuffer> {
    const memory = this.#free.pop();
    // Pieces are of one length but for the ends of a task; where a caller's list has others, memory that is too short goes.
    return memory !== undefined && memory.byteLength >= length
      ? new Uint8Array(memory, 0, length)
      : new Uint8Array(length);
  }

  #part(number: number): { readonly position: number; readonly length: number } {
    const part = this.#layout.part(number);
    if (part === undefined) throw new VortexError("Internal", `piece ${number} is not wanted`);
    return part;
  }
}

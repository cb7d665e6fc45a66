import { VortexError } from "../errors.ts";
import type { SinkLayout } from "./sink.ts";

/** The bytes of pieces, in memory. A buffer is taken at a piece's first byte, and is never longer than the piece. */
export class PieceBuffers {
  readonly #layout: SinkLayout;
  readonly #buffers = new Map<number, Uint8Array>();

  constructor(layout: SinkLayout) {
    this.#layout = layout;
  }

  /** See `SinkSession.write`. */
  write(number: number, position: number, chunk: Uint8Array): void {
    const part = this.#part(number);
    let buffer = this.#buffers.get(number);
    if (buffer === undefined) {
      buffer = new Uint8Array(part.length);
      this.#buffers.set(number, buffer);
    }
    buffer.set(chunk, position - part.position);
  }

  /** See `SinkSession.read`. */
  read(number: number, position: number, length: number): Uint8Array {
    const from = position - this.#part(number).position;
    const bytes = this.get(number).subarray(from, from + length);
    if (bytes.length === 0) throw new VortexError("Internal", `piece ${number} has no byte at ${position}`);
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
    this.#buffers.delete(number);
  }

  clear(): void {
    this.#buffers.clear();
  }

  #part(number: number): { readonly position: number; readonly length: number } {
    const part = this.#layout.part(number);
    if (part === undefined) throw new VortexError("Internal", `piece ${number} is not wanted`);
    return part;
  }
}

import { MessageChannel } from "node:worker_threads";

/**
 * Frees the memory of buffers at once, without the garbage collector. The buffers are detached
 * (length 0) afterwards, so no other code may use them.
 *
 * The runtimes allocate each received datagram and each chunk of a socket separately, outside of
 * the heap. V8 runs a full garbage collection every few hundred allocations. On Node, this took
 * more than a third of a QUIC client's CPU time. JavaScriptCore collects late, so many unused
 * buffers stay in memory.
 */
export const releaseMemory: (buffers: ArrayBuffer[]) => void =
  "transfer" in ArrayBuffer.prototype ? freeByTransfer : freeByClosedPort();

/**
 * Min length of a chunk, in bytes, for which {@link releaseMemory} is cheaper than garbage
 * collection.
 */
const MIN_FREED_BYTES = 8 * 1024;

/**
 * Returns true if {@link releaseMemory} is useful for a chunk: the chunk is large enough and fills
 * its whole buffer.
 */
export function isWorthFreeing(chunk: Uint8Array<ArrayBuffer>): boolean {
  return chunk.length >= MIN_FREED_BYTES && chunk.length === chunk.buffer.byteLength;
}

/**
 * Frees each buffer with `ArrayBuffer.prototype.transfer(0)`, on Node 22 or later, Bun and Deno.
 */
function freeByTransfer(buffers: ArrayBuffer[]): void {
  for (const buffer of buffers)
    (buffer as ArrayBuffer & { transfer(length: number): ArrayBuffer }).transfer(0);
}

/**
 * Returns a function that frees buffers by transferring them to a closed `MessagePort`, for Node
 * before 22.
 */
function freeByClosedPort(): (buffers: ArrayBuffer[]) => void {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  port1.unref();
  return (buffers) => port1.postMessage(null, buffers);
}

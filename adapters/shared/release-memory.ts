import { MessageChannel } from "node:worker_threads";

/**
 * Frees the memory of buffers at once, without the garbage collector. The buffers are detached
 * (length 0) afterwards, so no other code may have a view of them.
 *
 * The runtimes allocate each datagram and each chunk of a socket separately, outside of the heap.
 * V8 reacts with a full collection every few hundred of them. On Node, that took more than a third
 * of a QUIC client's CPU time. JavaScriptCore collects late and keeps many of them in memory.
 */
export const releaseMemory: (buffers: ArrayBuffer[]) => void =
  "transfer" in ArrayBuffer.prototype ? freeByTransfer : freeByClosedPort();

/**
 * Min length of a chunk, in bytes, for which freeing it by hand is cheaper than garbage collection.
 */
const MIN_FREED_BYTES = 8 * 1024;

/** Returns true if a chunk is large enough to free by hand and fills its whole buffer. */
export function isWorthFreeing(chunk: Uint8Array<ArrayBuffer>): boolean {
  return chunk.length >= MIN_FREED_BYTES && chunk.length === chunk.buffer.byteLength;
}

/** Frees buffers by a transfer to length 0 (Node 22, Bun, Deno). */
function freeByTransfer(buffers: ArrayBuffer[]): void {
  for (const buffer of buffers)
    (buffer as ArrayBuffer & { transfer(length: number): ArrayBuffer }).transfer(0);
}

/** Returns a function that frees buffers by a transfer to a closed port (before Node 22). */
function freeByClosedPort(): (buffers: ArrayBuffer[]) => void {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  port1.unref();
  return (buffers) => port1.postMessage(null, buffers);
}

import { MessageChannel } from "node:worker_threads";

/**
 * Frees the memory of buffers that were read, without waiting for the garbage collector; they are empty afterwards. For memory that
 * nobody else has a view of.
 *
 * The runtimes allocate each datagram and each chunk of a socket by itself, outside of the heap. V8 answers so much of that with a full
 * collection every few hundred of them: on Node that was more than a third of a QUIC client's CPU time. JavaScriptCore collects
 * late, and holds many of them at a time.
 */
export const releaseMemory: (buffers: ArrayBuffer[]) => void =
  "transfer" in ArrayBuffer.prototype ? shrinkToNothing : sendToNobody();

/** Bytes of a chunk from which on freeing it by hand costs less than leaving it to the collector. */
const WORTH_FREEING = 8 * 1024;

/** Whether a chunk that was read should be freed: its memory is its own, and some. */
export function isWorthFreeing(chunk: Uint8Array<ArrayBuffer>): boolean {
  return chunk.length >= WORTH_FREEING && chunk.length === chunk.buffer.byteLength;
}

function shrinkToNothing(buffers: ArrayBuffer[]): void {
  for (const buffer of buffers)
    (buffer as ArrayBuffer & { transfer(length: number): ArrayBuffer }).transfer(0);
}

/** Before Node 22: transferred to a port that is closed, the memory is freed at once too. */
function sendToNobody(): (buffers: ArrayBuffer[]) => void {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  port1.unref();
  return (buffers) => port1.postMessage(null, buffers);
}

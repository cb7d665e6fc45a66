import { type ClientHttp2Stream, constants } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Guard } from "../shared/guard.ts";
import { isWorthFreeing, releaseMemory } from "../shared/release-memory.ts";

/** Size of the chunks into which the frames of a message are joined, in bytes. */
const CHUNK_BYTES = 256 * 1024;
/** Received bytes that are buffered before the stream is paused. */
const READ_AHEAD_BYTES = 4 * CHUNK_BYTES;
/**
 * Length of a gRPC message header, in bytes: a flag, and the message length as big-endian uint32.
 */
const HEADER_BYTES = 5;

/**
 * Replaces the async iterator of a stream by one that delivers the chunks of a message to Connect
 * only once the message is complete:
 *
 * - Connect allocates the length that a header announces. Here memory grows with the received
 *   bytes. A header that announces more than `maxMessageLength` bytes is delivered at once, for
 *   Connect to reject.
 * - Chunks have 256 KiB, while HTTP/2 frames have 16 KiB. For each chunk, Connect sums the lengths
 *   of all chunks that it holds. For a piece of 64 MiB in frames, that takes three quarters of the
 *   time.
 * - Connect copies a complete message, so its chunks can be freed afterwards.
 *
 * @param maxMessageLength max message length, in bytes
 * @param guard guard for the callbacks of the stream
 * @param onBytes called for each received frame
 * @param onMessage receives the chunks of each message, without header, before Connect does. Its
 * exception fails the read.
 */
export function byWholeMessages(
  stream: ClientHttp2Stream,
  maxMessageLength: number,
  guard: Guard,
  onBytes: () => void,
  onMessage: (chunks: readonly Uint8Array[]) => void = () => {},
): ClientHttp2Stream {
  const frames: Uint8Array<ArrayBuffer>[] = [];
  let heldBytes = 0;
  /** Chunks of the incomplete message, with its header. */
  let message: Uint8Array<ArrayBuffer>[] = [];
  /** Chunks of a complete message, to deliver. */
  let ready: Uint8Array<ArrayBuffer>[] = [];
  /** Memory of delivered chunks, to free. */
  let delivered: ArrayBuffer[] = [];
  const envelope = new Envelope();
  let ended = false;
  let failure: Error | undefined;
  let wake = (): void => {};
  const isEnough = (): boolean => heldBytes >= Math.min(CHUNK_BYTES, envelope.left);

  /** Joins the buffered frames into one chunk of the incomplete message, up to its end. */
  const joinFrames = (): void => {
    const chunk = new Uint8Array(Math.min(heldBytes, envelope.left));
    const spent: ArrayBuffer[] = [];
    let length = 0;
    let count = 0;
    for (const frame of frames) {
      const part = frame.subarray(0, chunk.length - length);
      chunk.set(part, length);
      length += part.length;
      if (part.length < frame.length) {
        frames[count] = frame.subarray(part.length);
        break;
      }
      count++;
      if (isWorthFreeing(frame)) spent.push(frame.buffer);
    }
    frames.splice(0, count);
    releaseMemory(spent);
    heldBytes -= chunk.length;
    message.push(chunk);
    envelope.consume(chunk);
    if (envelope.complete || envelope.left > maxMessageLength) {
      // The header is a separate chunk.
      if (envelope.complete) onMessage(message.slice(1));
      ready = message;
      message = [];
    }
    if (stream.isPaused()) stream.resume();
  };

  const listen = (): void => {
    const onFrame = guard.wrap((frame: Uint8Array<ArrayBuffer>) => {
      frames.push(frame);
      heldBytes += frame.length;
      onBytes();
      if (isEnough()) wake();
      if (heldBytes >= READ_AHEAD_BYTES) stream.pause();
    });
    const onEnd = guard.wrap(() => {
      // A reset also emits "end".
      if (stream.rstCode !== constants.NGHTTP2_NO_ERROR) failure ??= closedEarly(stream);
      ended = true;
      wake();
    });
    const onError = guard.wrap((error: Error) => {
      failure = error;
      wake();
    });
    const onClose = guard.wrap(() => {
      if (!ended) failure ??= closedEarly(stream);
      wake();
    });
    stream.on("data", onFrame);
    stream.once("end", onEnd);
    stream.once("error", onError);
    stream.once("close", onClose);
  };

  const iterator = {
    async next(): Promise<IteratorResult<Uint8Array, undefined>> {
      for (;;) {
        const chunk = ready.shift();
        if (chunk !== undefined) {
          delivered.push(chunk.buffer);
          return { done: false, value: chunk };
        }
        // Connect has copied the delivered message when it asks for more.
        releaseMemory(delivered);
        delivered = [];
        if (failure !== undefined) throw failure;
        if (heldBytes > 0 && isEnough()) joinFrames();
        else if (!ended) await woken();
        else if (heldBytes > 0 || message.length > 0) {
          throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
        } else return { done: true, value: undefined };
      }
    },
  };
  const woken = (): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve;
    });

  return Object.assign(stream, {
    [Symbol.asyncIterator]: () => {
      listen();
      return iterator;
    },
  });
}

/** Creates the error for a stream that closed before its end. It names the reset code. */
export function closedEarly({ rstCode }: ClientHttp2Stream): Error {
  const name = resetNames.get(rstCode) ?? rstCode;
  return new Error(`http/2 stream closed before its end, with error code ${name}`);
}

/** Reset codes (RFC 9113, section 7) that callers distinguish, with the names that Connect uses. */
const resetNames: ReadonlyMap<number | undefined, string> = new Map([
  [constants.NGHTTP2_REFUSED_STREAM, "REFUSED_STREAM"],
  [constants.NGHTTP2_ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM"],
]);

/** Tracks the header and length of consecutive messages. */
class Envelope {
  readonly #header = new Uint8Array(HEADER_BYTES);
  /** Consumed bytes of the current header. */
  #headerBytes = 0;
  /** Remaining bytes of the current message. */
  #messageLeft = 0;

  /** Remaining bytes of the current header or message. */
  get left(): number {
    return this.#messageLeft > 0 ? this.#messageLeft : HEADER_BYTES - this.#headerBytes;
  }

  /** True if all bytes of the last message are consumed. */
  get complete(): boolean {
    return this.#messageLeft === 0 && this.#headerBytes === 0;
  }

  /** Consumes bytes of the stream. @param bytes at most {@link left} of them */
  consume(bytes: Uint8Array): void {
    if (this.#messageLeft > 0) {
      this.#messageLeft -= bytes.length;
      return;
    }
    this.#header.set(bytes, this.#headerBytes);
    this.#headerBytes += bytes.length;
    if (this.#headerBytes < HEADER_BYTES) return;
    this.#headerBytes = 0;
    this.#messageLeft = new DataView(this.#header.buffer).getUint32(1);
  }
}

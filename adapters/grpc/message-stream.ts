import { type ClientHttp2Stream, constants } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Guard } from "../shared/guard.ts";
import { isWorthFreeing, releaseMemory } from "../shared/release-memory.ts";

/**
 * Max size of the chunks that Connect receives, in bytes. Each chunk joins the content of several
 * HTTP/2 DATA frames.
 */
const CHUNK_BYTES = 256 * 1024;
/** Number of buffered bytes at which the stream is paused. */
const READ_AHEAD_BYTES = 4 * CHUNK_BYTES;
/**
 * Length of a gRPC message header in bytes: one byte of flags, then the message length as a
 * big-endian uint32.
 */
const HEADER_BYTES = 5;

/**
 * Replaces the async iterator of an HTTP/2 stream, so that Connect receives a gRPC message only
 * when all of its bytes have arrived. There are three reasons:
 *
 * - Memory grows with the received bytes only. Connect itself would allocate the length that the
 *   message header announces. A header that announces more than `maxMessageLength` bytes is
 *   delivered at once, so that Connect rejects the message.
 * - Each chunk has up to 256 KiB, while an HTTP/2 frame has 16 KiB. For each chunk, Connect sums
 *   the lengths of all chunks that it holds. With one chunk per frame, this sum would take three
 *   quarters of the time for a piece of 64 MiB.
 * - The chunks of a message can be freed once Connect has copied the complete message.
 *
 * @param maxMessageLength max length of a message, in bytes
 * @param guard catches the exceptions of the stream's event callbacks
 * @param onBytes called for each received DATA frame
 * @param onMessage receives the chunks of each complete message, without the header, before Connect
 * does. If it throws, Connect's read fails with the exception.
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
  /** Chunks of the incomplete message. The first chunk is the message header. */
  let message: Uint8Array<ArrayBuffer>[] = [];
  /** Chunks that Connect may read: a complete message, or the header of one that is too long. */
  let ready: Uint8Array<ArrayBuffer>[] = [];
  /** Memory of chunks that Connect has read. It is freed once Connect has copied the message. */
  let delivered: ArrayBuffer[] = [];
  const envelope = new Envelope();
  let ended = false;
  let failure: Error | undefined;
  let wake = (): void => {};
  const isEnough = (): boolean => heldBytes >= Math.min(CHUNK_BYTES, envelope.left);

  /**
   * Joins buffered frames into one chunk. The chunk ends at the latest at the end of the current
   * message header or message.
   */
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

/**
 * Creates the error for an HTTP/2 stream that closed before END_STREAM. The error message has the
 * error code of the reset (RFC 9113, section 7).
 */
export function closedEarly({ rstCode }: ClientHttp2Stream): Error {
  const name = resetNames.get(rstCode) ?? rstCode;
  return new Error(`http/2 stream closed before its end, with error code ${name}`);
}

/**
 * Names of the HTTP/2 error codes (RFC 9113, section 7) that callers distinguish, spelled as in
 * Connect's error messages. Other codes stay numbers.
 */
const resetNames: ReadonlyMap<number | undefined, string> = new Map([
  [constants.NGHTTP2_REFUSED_STREAM, "REFUSED_STREAM"],
  [constants.NGHTTP2_ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM"],
]);

/**
 * Tracks the position in a sequence of gRPC messages: the bytes still missing from the current
 * header or message.
 */
class Envelope {
  readonly #header = new Uint8Array(HEADER_BYTES);
  /** Number of consumed bytes of the current message header; 0 when the header is complete. */
  #headerBytes = 0;
  /**
   * Number of remaining bytes of the current message, without its header; 0 while the header is
   * incomplete.
   */
  #messageLeft = 0;

  /**
   * Number of remaining bytes of the current message, or of its header while the header is
   * incomplete.
   */
  get left(): number {
    return this.#messageLeft > 0 ? this.#messageLeft : HEADER_BYTES - this.#headerBytes;
  }

  /** True at a message boundary: all bytes of the last message are consumed. */
  get complete(): boolean {
    return this.#messageLeft === 0 && this.#headerBytes === 0;
  }

  /**
   * Consumes bytes of the current message or its header.
   * @param bytes next bytes of the stream, at most {@link left} of them
   */
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

import { type ClientHttp2Stream, constants } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Guard } from "../shared/guard.ts";
import { isWorthFreeing, releaseMemory } from "../shared/release-memory.ts";

/** Bytes of a message that are joined into one chunk, and how many are held before the stream is paused. */
const CHUNK = 256 * 1024;
const READ_AHEAD = 4 * CHUNK;
/** Bytes before each message of gRPC: a flag, and the length in four bytes, big-endian. */
const HEADER = 5;

/**
 * The stream, with an iterator of its own, which hands Connect whole messages only:
 *
 * - Connect allocates what a header announces. Here the memory grows with what comes, and a header that announces more than `most`
 *   bytes is handed over at once, for Connect to refuse.
 * - Messages come in chunks of 256 KiB, where HTTP/2 has frames of 16 KiB: Connect adds up the lengths of all chunks that it holds at
 *   each one that comes, which for a piece of 64 MiB in frames takes three quarters of the time.
 * - Connect copies a message once it is complete, so the chunks can be freed then.
 *
 * @param guard for the callbacks of the stream
 * @param onMessage sees each message, without its header, before it is handed over; what it throws is what the reading fails with
 */
export function byMessages(
  stream: ClientHttp2Stream,
  most: number,
  guard: Guard,
  onBytes: () => void,
  onMessage: (chunks: readonly Uint8Array[]) => void = () => {},
): ClientHttp2Stream {
  const frames: Uint8Array<ArrayBuffer>[] = [];
  let held = 0;
  /** The message under way with its header, chunks to hand over, and memory of those that were. */
  let message: Uint8Array<ArrayBuffer>[] = [];
  let ready: Uint8Array<ArrayBuffer>[] = [];
  let handed: ArrayBuffer[] = [];
  const envelope = new Envelope();
  let ended = false;
  let failure: Error | undefined;
  let wake = (): void => {};
  const isEnough = (): boolean => held >= Math.min(CHUNK, envelope.left);

  /** Moves what is held into the message under way, to its end at most. */
  const join = (): void => {
    const chunk = new Uint8Array(Math.min(held, envelope.left));
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
    held -= chunk.length;
    message.push(chunk);
    envelope.pass(chunk);
    if (envelope.complete || envelope.left > most) {
      // The header is a chunk of its own.
      if (envelope.complete) onMessage(message.slice(1));
      ready = message;
      message = [];
    }
    if (stream.isPaused()) stream.resume();
  };

  const listen = (): void => {
    const onFrame = guard.wrap((frame: Uint8Array<ArrayBuffer>) => {
      frames.push(frame);
      held += frame.length;
      onBytes();
      if (isEnough()) wake();
      if (held >= READ_AHEAD) stream.pause();
    });
    const onEnd = guard.wrap(() => {
      // A reset ends the stream too, as far as reading goes.
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
          handed.push(chunk.buffer);
          return { done: false, value: chunk };
        }
        // Who asks for more after a whole message has copied it.
        releaseMemory(handed);
        handed = [];
        if (failure !== undefined) throw failure;
        if (held > 0 && isEnough()) join();
        else if (!ended) await woken();
        else if (held > 0 || message.length > 0) {
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

/** Why a stream ended that had not come to its end. */
export function closedEarly({ rstCode }: ClientHttp2Stream): Error {
  const name = resetNames.get(rstCode) ?? rstCode;
  return new Error(`http/2 stream closed before its end, with error code ${name}`);
}

/** The codes that are told from others (RFC 9113, section 7), by the names that Connect gives them. */
const resetNames: ReadonlyMap<number | undefined, string> = new Map([
  [constants.NGHTTP2_REFUSED_STREAM, "REFUSED_STREAM"],
  [constants.NGHTTP2_ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM"],
]);

/** Follows one message after the other. */
class Envelope {
  readonly #header = new Uint8Array(HEADER);
  /** Bytes of the header that have passed. */
  #headed = 0;
  /** Bytes of the message that have not. */
  #message = 0;

  /** Bytes to the end of the header, or of the message. */
  get left(): number {
    return this.#message > 0 ? this.#message : HEADER - this.#headed;
  }

  /** Whether the message of which something has passed is complete. */
  get complete(): boolean {
    return this.#message === 0 && this.#headed === 0;
  }

  /** @param bytes {@link left} at most */
  pass(bytes: Uint8Array): void {
    if (this.#message > 0) {
      this.#message -= bytes.length;
      return;
    }
    this.#header.set(bytes, this.#headed);
    this.#headed += bytes.length;
    if (this.#headed < HEADER) return;
    this.#headed = 0;
    this.#message = new DataView(this.#header.buffer).getUint32(1);
  }
}

/**
 * Protocol between a test and the transport inside an edge worker; both sides import this file. It
 * sends frames over a TCP stream. Each frame has a JSON head and a binary payload.
 */
import type { ErrorCode } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type { ByteStream } from "../../src/transport/transport.ts";
import { joined } from "./random.ts";

/** Call from a test to the transport inside the worker. A call with an `id` gets a reply. */
export type EdgeCall =
  | {
      readonly do: "dial";
      readonly id: number;
      readonly remote: Address;
      readonly signal?: EdgeSignal;
    }
  | {
      readonly do: "open";
      readonly id: number;
      readonly stream: number;
      readonly signal?: EdgeSignal;
    }
  | { readonly do: "read" | "write" | "end"; readonly id: number; readonly stream: number }
  | { readonly do: "cancel" | "reset"; readonly stream: number; readonly code?: number }
  | { readonly do: "close"; readonly id: number; readonly grace?: number }
  | { readonly do: "abort"; readonly code?: number; readonly reason?: string }
  | { readonly do: "fire"; readonly signal: EdgeSignal };

/** AbortSignal of the test, identified by a number. `reason` is set if the signal has aborted. */
export interface EdgeSignal {
  readonly number: number;
  readonly reason?: { readonly code?: ErrorCode; readonly message: string };
}

/**
 * `VortexError` that the worker sends to the test. If the reason of a signal is the error or its
 * cause, the message has the number of that signal.
 */
export interface EdgeFailure {
  readonly code: ErrorCode;
  readonly message: string;
  /** Number of the signal whose reason is this error. Undefined if there is no such signal. */
  readonly reasonOf?: number;
  /**
   * Number of the signal whose reason is the cause of this error. Undefined if there is no such
   * signal.
   */
  readonly causeOf?: number;
}

/**
 * Message from the worker to the test: the reply to the call `id`, or an event of the connection.
 */
export type EdgeReport =
  | { readonly session: string }
  | { readonly id: number; readonly failure?: EdgeFailure; readonly ended?: boolean }
  | {
      readonly id: number;
      readonly connection: { readonly remote: Address; readonly resumed: boolean };
    }
  | {
      readonly closed: {
        readonly code: number;
        readonly reason: string;
        readonly remote: boolean;
        readonly failure: EdgeFailure;
      };
    }
  | { readonly accepted: number };

const FRAME_HEADER_BYTES = 8;

/**
 * Sends and receives frames over a byte stream. A frame starts with the lengths of its head and its
 * payload, in bytes, as big-endian uint32.
 */
export class FrameStream<In, Out> {
  readonly #stream: ByteStream;
  #pendingChunks: Uint8Array[] = [];
  #sending: Promise<void> = Promise.resolve();

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  /** Sends a frame. All frames sent in one turn of the event loop are sent in one write. */
  send(head: Out, payload: Uint8Array = new Uint8Array(0)): void {
    const text = new TextEncoder().encode(JSON.stringify(head));
    const lengths = new Uint8Array(FRAME_HEADER_BYTES);
    const view = new DataView(lengths.buffer);
    view.setUint32(0, text.length);
    view.setUint32(4, payload.length);
    if (this.#pendingChunks.push(lengths, text, payload) > 3) return;
    this.#sending = this.#sending.then(async () => {
      const bytes = joined(this.#pendingChunks);
      this.#pendingChunks = [];
      await this.#stream.writer.write(bytes);
    });
    // `frames` reports a lost stream, so the write error is ignored.
    this.#sending.catch(() => {});
  }

  /** Yields the received frames until the stream ends or fails. */
  async *frames(): AsyncGenerator<
    { readonly head: In; readonly payload: Uint8Array<ArrayBuffer> },
    void,
    void
  > {
    let chunks: Uint8Array[] = [];
    let held = 0;
    const readAtLeast = async (length: number): Promise<boolean> => {
      while (held < length) {
        const chunk = await this.#stream.reader.read().catch(() => undefined);
        if (chunk === undefined) return false;
        chunks.push(chunk);
        held += chunk.length;
      }
      return true;
    };
    while (await readAtLeast(FRAME_HEADER_BYTES)) {
      let bytes = joined(chunks);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const [text, payload] = [view.getUint32(0), view.getUint32(4)];
      chunks = [bytes];
      if (!(await readAtLeast(FRAME_HEADER_BYTES + text + payload))) return;
      bytes = joined(chunks);
      chunks = [bytes.subarray(FRAME_HEADER_BYTES + text + payload)];
      held -= FRAME_HEADER_BYTES + text + payload;
      yield {
        head: JSON.parse(
          new TextDecoder().decode(bytes.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + text)),
        ),
        payload: bytes.slice(FRAME_HEADER_BYTES + text, FRAME_HEADER_BYTES + text + payload),
      };
    }
  }

  async close(): Promise<void> {
    await this.#sending.catch(() => {});
    this.#stream.reader.cancel();
    this.#stream.writer.abort();
  }
}

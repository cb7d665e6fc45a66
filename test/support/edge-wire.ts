/**
 * How a test speaks with the transport inside a worker: frames over a TCP stream, each a JSON value and bytes. Both sides use
 * this file.
 */
import type { ErrorCode } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type { ByteStream } from "../../src/transport/transport.ts";
import { joined } from "./random.ts";

/** What the test asks for. Calls with an `id` are answered. */
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

/** An AbortSignal of the test, known to the worker by its number; `reason` is there once it has fired. */
export interface EdgeSignal {
  readonly number: number;
  readonly reason?: { readonly code?: ErrorCode; readonly message: string };
}

/** A `VortexError` of the worker; a signal's reason stays the test's own object. */
export interface EdgeFailure {
  readonly code: ErrorCode;
  readonly message: string;
  /** The number of the signal whose reason the error is, or has as its cause. */
  readonly reasonOf?: number;
  readonly causeOf?: number;
}

/** What the worker tells. */
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

const HEAD = 8;

/** Frames over a stream. */
export class FrameStream<In, Out> {
  readonly #stream: ByteStream;
  #waiting: Uint8Array[] = [];
  #sending: Promise<void> = Promise.resolve();

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  /** Frames that are sent in one turn go out as one write, so that the other side has them at once. */
  send(head: Out, payload: Uint8Array = new Uint8Array(0)): void {
    const text = new TextEncoder().encode(JSON.stringify(head));
    const lengths = new Uint8Array(HEAD);
    const view = new DataView(lengths.buffer);
    view.setUint32(0, text.length);
    view.setUint32(4, payload.length);
    if (this.#waiting.push(lengths, text, payload) > 3) return;
    this.#sending = this.#sending.then(async () => {
      const bytes = joined(this.#waiting);
      this.#waiting = [];
      await this.#stream.writer.write(bytes);
    });
    // The reading side hears of the end too.
    this.#sending.catch(() => {});
  }

  /** Every frame until the stream ends, however it does. */
  async *frames(): AsyncGenerator<{ readonly head: In; readonly payload: Uint8Array }, void, void> {
    let chunks: Uint8Array[] = [];
    let held = 0;
    const more = async (length: number): Promise<boolean> => {
      while (held < length) {
        const chunk = await this.#stream.reader.read().catch(() => undefined);
        if (chunk === undefined) return false;
        chunks.push(chunk);
        held += chunk.length;
      }
      return true;
    };
    while (await more(HEAD)) {
      let bytes = joined(chunks);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const [text, payload] = [view.getUint32(0), view.getUint32(4)];
      chunks = [bytes];
      if (!(await more(HEAD + text + payload))) return;
      bytes = joined(chunks);
      chunks = [bytes.subarray(HEAD + text + payload)];
      held -= HEAD + text + payload;
      yield {
        head: JSON.parse(new TextDecoder().decode(bytes.subarray(HEAD, HEAD + text))),
        payload: bytes.slice(HEAD + text, HEAD + text + payload),
      };
    }
  }

  async close(): Promise<void> {
    await this.#sending.catch(() => {});
    this.#stream.reader.cancel();
    this.#stream.writer.abort();
  }
}

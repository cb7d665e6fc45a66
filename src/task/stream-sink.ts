import { VortexError } from "../errors.ts";
import { PieceBuffers } from "./piece-buffers.ts";
import type { SinkLayout, SinkOpenOptions, SinkPiece, SinkSession, TaskSink } from "./sink.ts";
import type { StreamLayout } from "./task.ts";

/**
 * Maximum number of bytes that are requested ahead of the reader. If two pieces are longer, their
 * length is the maximum.
 */
const MIN_READ_AHEAD_BYTES = 32 * 1024 * 1024;
/** Maximum length of a chunk that the reader receives, in bytes. */
const CHUNK_BYTES = 256 * 1024;

/**
 * Sink that delivers the content in order, as a web stream. A piece stays in memory from its first
 * byte until the reader has consumed it. At most 32 MiB, or two pieces if these are longer, are
 * requested ahead of the reader.
 *
 * A piece is delivered only after verification, since bytes that the reader has received cannot be
 * replaced by the bytes of another parent.
 */
export class StreamSink implements TaskSink {
  /** Stream of the content in order, see `TaskStream.content`. */
  readonly content: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Called with the lengths and digest of the task when the sink is opened. */
  readonly #onLayout: (layout: StreamLayout) => void;
  /** Session of the download; undefined until the sink is opened. */
  #session: StreamSession | undefined;
  /** Controller of the stream. */
  #controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>> | undefined;
  /**
   * Reason with which the reader cancelled the stream; undefined if it did not. Stored for the case
   * that the sink is opened later.
   */
  #cancelled: { readonly reason: unknown } | undefined;
  /** Resolves the promise on which a read waits for the sink to be opened. */
  #onOpen: (() => void) | undefined;
  /** True once the stream is closed, failed or cancelled. */
  #ended = false;

  constructor(onLayout: (layout: StreamLayout) => void = () => {}) {
    this.#onLayout = onLayout;
    this.content = new ReadableStream<Uint8Array<ArrayBuffer>>(
      {
        start: (controller) => {
          this.#controller = controller;
        },
        // The stream does not pull again before this promise resolves, so it waits for data.
        pull: async (controller) => {
          const chunk = await this.#next();
          if (chunk !== undefined) controller.enqueue(chunk);
          else if (!this.#ended) {
            this.#ended = true;
            controller.close();
          }
        },
        cancel: (reason) => {
          this.#ended = true;
          this.#cancelled = { reason };
          this.#session?.cancel(reason);
        },
      },
      { highWaterMark: 0 },
    );
  }

  /**
   * Returns the session that buffers the pieces for the stream. Rejects with `InvalidArgument` if
   * the sink was opened before.
   */
  async open(layout: SinkLayout, options: SinkOpenOptions): Promise<SinkSession> {
    if (this.#session !== undefined)
      throw new VortexError("InvalidArgument", "stream sink: expected one download, got a second");
    const session = new StreamSession(layout, options, (error) => this.fail(error));
    this.#session = session;
    const { contentLength, start, length } = layout;
    this.#onLayout({ contentLength, start, length, digest: options.digest });
    if (this.#cancelled !== undefined) session.cancel(this.#cancelled.reason);
    this.#onOpen?.();
    return session;
  }

  /**
   * Fails the stream with `error`, whether the sink was opened or not. Does nothing if the stream
   * has ended.
   */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#controller?.error(error);
    this.#onOpen?.();
  }

  /**
   * Resolves with the next chunk of the content, once it is available. Resolves with undefined at
   * the end of the stream.
   */
  async #next(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    while (this.#session === undefined && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#onOpen = resolve;
      });
    }
    return this.#ended ? undefined : this.#session?.next();
  }
}

/**
 * Session of a {@link StreamSink}: buffers pieces in memory until the reader has consumed them.
 */
class StreamSession implements SinkSession {
  readonly resumed: SinkSession["resumed"] = [];
  /** Layout of the requested content. */
  readonly #layout: SinkLayout;
  /** Callbacks of the download. */
  readonly #options: SinkOpenOptions;
  /** Bytes of the pieces that the reader has not consumed. */
  readonly #buffers: PieceBuffers;
  /** Maximum number of bytes that may be requested ahead of the reader. */
  readonly #readAhead: number;
  /** Called with the error of a failed download. */
  readonly #onAbort: (error: unknown) => void;
  /**
   * Numbers of committed pieces that the reader has not reached, by the position of their first
   * byte.
   */
  readonly #pieces = new Map<number, number>();
  /** Number of bytes that the reader has received. */
  #consumed = 0;
  /** Number of bytes that the reader may receive so far. */
  #released = 0;
  /**
   * Piece that the reader is receiving, and the offset of its next byte; undefined between two
   * pieces.
   */
  #current:
    | { readonly number: number; readonly bytes: Uint8Array<ArrayBuffer>; at: number }
    | undefined;
  /** True after the download succeeded or failed. */
  #isEnded = false;
  /** Resolves the promise on which a read waits for more released bytes. */
  #wake: (() => void) | undefined;

  constructor(layout: SinkLayout, options: SinkOpenOptions, onAbort: (error: unknown) => void) {
    this.#layout = layout;
    this.#options = options;
    this.#onAbort = onAbort;
    this.#buffers = new PieceBuffers(layout);
    this.#readAhead = Math.max(MIN_READ_AHEAD_BYTES, 2 * layout.longestPiece);
  }

  get limit(): number {
    return this.#consumed + this.#readAhead;
  }

  async write(number: number, position: number, chunk: Uint8Array): Promise<void> {
    this.#buffers.write(number, position, chunk);
  }

  async commit({ number }: SinkPiece): Promise<void> {
    const part = this.#layout.part(number);
    if (part !== undefined) this.#pieces.set(part.position, number);
  }

  async read(
    number: number,
    position: number,
    length: number,
    into?: Uint8Array,
  ): Promise<Uint8Array> {
    const bytes = this.#buffers.read(number, position, length);
    // The memory of a delivered piece is reused for later pieces, so bytes that the caller may
    // store are copied.
    return into === undefined ? bytes.slice() : bytes;
  }

  canRead(number: number): boolean {
    return this.#buffers.has(number);
  }

  async advance(position: number): Promise<void> {
    // The last chunk is held back until the whole content is verified.
    this.#released = Math.max(
      this.#released,
      position === this.#layout.length ? position - CHUNK_BYTES : position,
    );
    this.#wake?.();
  }

  async finish(): Promise<void> {
    this.#released = this.#layout.length;
    this.#isEnded = true;
    this.#wake?.();
  }

  async abort(error: unknown): Promise<void> {
    this.#isEnded = true;
    this.#buffers.clear();
    this.#pieces.clear();
    this.#onAbort(error);
    this.#wake?.();
  }

  /** Fails the download with `Aborted`, since the reader cancelled the stream. */
  cancel(reason: unknown): void {
    this.#options.onFailure(
      new VortexError("Aborted", "the content of the task was cancelled", { cause: reason }),
    );
  }

  /**
   * Resolves with the next chunk in order, once its piece is verified. Resolves with undefined at
   * the end of the content or after a failure.
   */
  async next(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    while (this.#consumed === this.#released) {
      if (this.#isEnded) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const current = this.#current ?? this.#begin();
    if (current === undefined) return undefined;
    const end = Math.min(
      current.bytes.length,
      current.at + CHUNK_BYTES,
      current.at + this.#released - this.#consumed,
    );
    // The reader may transfer the memory of its chunks, so it receives a copy.
    const chunk = current.bytes.slice(current.at, end);
    current.at = end;
    this.#consumed += chunk.length;
    this.#current = current;
    if (end === current.bytes.length) {
      this.#current = undefined;
      this.#buffers.delete(current.number);
    }
    this.#options.onLimitIncrease();
    return chunk;
  }

  /**
   * Returns the piece that starts at the reader's position, or undefined if that piece is not
   * committed.
   */
  #begin():
    | { readonly number: number; readonly bytes: Uint8Array<ArrayBuffer>; at: number }
    | undefined {
    const number = this.#pieces.get(this.#consumed);
    if (number === undefined) return undefined;
    this.#pieces.delete(this.#consumed);
    return { number, bytes: this.#buffers.get(number), at: 0 };
  }
}

import { VortexError } from "../../src/errors.ts";
import type { ByteReader, ByteStream, ByteWriter } from "../../src/transport/transport.ts";
import type { Guard } from "../shared/guard.ts";
import { streamError } from "./errors.ts";
import type { NativeStream } from "./native.ts";

/** Initial size of a stream's read buffer in bytes. It fits a request or a short response. */
const MIN_READ_BUFFER_BYTES = 4 * 1024;
/**
 * Size of a stream's read buffer in bytes, after a read has filled a buffer of the initial size.
 *
 * The size does not shrink again. On a connection with several streams, reads yield now one
 * datagram, now 60 KB. An adaptive size would cause frequent allocations.
 */
const MAX_READ_BUFFER_BYTES = 64 * 1024;

/** Callbacks from a stream to its connection. */
export interface StreamOwner {
  /**
   * Wraps the event callbacks of the stream. If a callback throws, the guard ends the connection.
   */
  readonly guard: Guard;
  /**
   * Waits for the end of the connection, after a failure that concerns more than one stream.
   * Resolves to the error that the connection ended with.
   *
   * @param cause error of Deno's QUIC
   */
  waitForCloseReason(cause: unknown): Promise<VortexError>;
  /**
   * Called when the peer has ended or aborted its direction, or when this side has cancelled
   * reading.
   */
  onPeerEnded(stream: DenoQuicStream): void;
  /** Called when this side has ended its sending direction. */
  onEnded(stream: DenoQuicStream): void;
  /**
   * Called when Deno reports refused early data (0-RTT) for a stream. Resolves to the error for the
   * stream: `refused`, or the connection's error if the connection has ended. Deno reports both in
   * the same way.
   */
  onEarlyDataRefused(refused: VortexError): Promise<VortexError>;
  /**
   * Calls `act` when the server has accepted or refused early data (0-RTT). If no early data is
   * pending, calls `act` at once.
   */
  onceEarlyDataDecided(act: () => void): void;
  /** Called when both directions of the stream have ended. */
  forget(stream: DenoQuicStream): void;
}

/**
 * Bidirectional stream of Deno's QUIC.
 *
 * One read of the native stream is always in progress. So the peer's FIN or abort is detected even
 * if the application does not read. The read data waits in this class. All further data stays in
 * the flow-control window, so a slow reader slows its sender down.
 *
 * Deno 2.9 has two limitations. A cancelled reader sends STOP_SENDING with code 0, whatever code
 * was given. An aborted writer looks like a FIN to the peer, since quinn finishes a stream that is
 * dropped.
 */
export class DenoQuicStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #owner: StreamOwner;
  readonly #nativeReader: ReadableStreamBYOBReader;
  readonly #nativeWriter: WritableStreamDefaultWriter<Uint8Array>;
  /** Size in bytes of the buffer for the next read. */
  #bufferBytes = MIN_READ_BUFFER_BYTES;
  /**
   * Buffer that the next read can use. Undefined if the application has received the previous
   * buffer.
   */
  #spareBuffer: ArrayBuffer | undefined;
  /**
   * Promise of the next chunk for the application: a read in progress, or data that was already
   * read. Resolves to undefined at the FIN.
   */
  #nextChunk: Promise<Uint8Array<ArrayBuffer> | undefined>;
  #readEnd: "open" | "ended" | VortexError = "open";
  #writeEnd: "open" | "ended" | VortexError = "open";
  /**
   * Rejects the application's pending read. Used if this side ends the stream, since the native
   * stream may never settle its read, see {@link fail}.
   */
  #rejectRead: ((error: VortexError) => void) | undefined;
  /** Rejects the application's pending write. */
  #rejectWrite: ((error: VortexError) => void) | undefined;
  /** True once the peer has ended or aborted its direction, or this side has cancelled reading. */
  #peerEnded = false;

  constructor(native: NativeStream, owner: StreamOwner) {
    this.#owner = owner;
    this.#nativeReader = native.readable.getReader({ mode: "byob" });
    this.#nativeWriter = native.writable.getWriter();
    this.#nextChunk = this.#readAhead();
    this.reader = { read: (into) => this.#read(into), cancel: () => this.#cancel() };
    this.writer = {
      write: (chunk) => this.#write(chunk),
      end: (last) => this.#endWriting(last),
      abort: () => this.#abort(),
    };
  }

  /**
   * True if this side has ended its sending direction, while the peer's direction is still open.
   */
  get undelivered(): boolean {
    return this.#writeEnd === "ended" && !this.#peerEnded;
  }

  /**
   * Fails both directions of the stream, because this side has ended the connection.
   *
   * Deno 2.9 may never settle a read of a stream opened before the handshake was complete. This
   * happens if the connection is closed because the peer is gone.
   */
  fail(error: VortexError): void {
    if (this.#readEnd === "open") this.#failReading(error);
    this.#failWriting(error);
  }

  // --- reading -----------------------------------------------------------------------------------

  async #read(
    into: Uint8Array<ArrayBuffer> | undefined,
  ): Promise<Uint8Array<ArrayBuffer> | undefined> {
    if (this.#readEnd === "ended") return undefined;
    if (this.#readEnd !== "open") throw this.#readEnd;
    const chunk = await new Promise<Uint8Array<ArrayBuffer> | undefined>((resolve, reject) => {
      this.#rejectRead = reject;
      this.#nextChunk.then(
        resolve,
        this.#owner.guard.wrap(async (cause: unknown) =>
          reject(this.#endReading(await this.#errorOf(cause))),
        ),
      );
    });
    this.#rejectRead = undefined;
    // It may have been cancelled in the meantime.
    const end = this.#readEnd as "open" | "ended" | VortexError;
    if (end instanceof VortexError) throw end;
    if (chunk === undefined) {
      this.#endReading("ended");
      return undefined;
    }
    const read = this.#copyOrPass(chunk, into);
    const rest = chunk.subarray(read.length);
    this.#nextChunk = rest.length > 0 ? Promise.resolve(rest) : this.#readAhead();
    return read;
  }

  /**
   * Returns the start of `chunk`: copied to `into`, up to the length of `into`, or as `chunk`
   * itself if `into` is undefined. A small chunk is copied to new memory. Buffers whose content was
   * copied are reused.
   */
  #copyOrPass(
    chunk: Uint8Array<ArrayBuffer>,
    into: Uint8Array<ArrayBuffer> | undefined,
  ): Uint8Array<ArrayBuffer> {
    if (into === undefined) {
      // A small chunk must not keep a large buffer alive.
      if (chunk.length * 4 >= chunk.buffer.byteLength) return chunk;
      this.#spareBuffer = chunk.buffer;
      return chunk.slice();
    }
    const length = Math.min(chunk.length, into.length);
    into.set(chunk.subarray(0, length));
    if (length === chunk.length) this.#spareBuffer = chunk.buffer;
    return into.subarray(0, length);
  }

  /** Starts the next read of the native stream, and records when the peer's direction has ended. */
  #readAhead(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const reading = this.#receive();
    reading.then(
      this.#owner.guard.wrap((chunk: Uint8Array | undefined) => {
        if (chunk === undefined) this.#onPeerEnded();
      }),
      this.#owner.guard.wrap((cause: unknown) => {
        this.#owner.guard.run(() => this.#errorOf(cause));
        this.#onPeerEnded();
      }),
    );
    return reading;
  }

  async #receive(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const memory =
      this.#spareBuffer?.byteLength === this.#bufferBytes
        ? this.#spareBuffer
        : new ArrayBuffer(this.#bufferBytes);
    this.#spareBuffer = undefined;
    const { value, done } = await this.#nativeReader.read(new Uint8Array(memory));
    if (done) return undefined;
    if (value.length === this.#bufferBytes) this.#bufferBytes = MAX_READ_BUFFER_BYTES;
    return value;
  }

  #onPeerEnded(): void {
    if (this.#peerEnded) return;
    this.#peerEnded = true;
    this.#owner.onPeerEnded(this);
  }

  #endReading<T extends "ended" | VortexError>(how: T): T | VortexError {
    if (this.#readEnd === "open") this.#readEnd = how;
    this.#forgetIfEnded();
    return this.#readEnd instanceof VortexError ? this.#readEnd : how;
  }

  #cancel(): void {
    if (this.#readEnd !== "open") return;
    this.#failReading(new VortexError("Closed", "the stream was cancelled on this side"));
    this.#onPeerEnded();
  }

  #failReading(error: VortexError): void {
    this.#endReading(error);
    this.#rejectRead?.(error);
    this.#rejectRead = undefined;
    // A pending native read keeps the connection and its socket alive, so it is cancelled. During
    // the handshake it first has to report whether early data was refused.
    this.#owner.onceEarlyDataDecided(() => void this.#nativeReader.cancel().catch(() => {}));
  }

  // --- writing -----------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#writeEnd === "ended")
      throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#writeEnd !== "open") throw this.#writeEnd;
    if (chunk.length === 0) return;
    await this.#waitForWrite(this.#nativeWriter.write(chunk));
  }

  /**
   * Resolves when the native write has completed. Rejects if it fails, or if this side fails the
   * sending direction first.
   *
   * @param writing promise of the native write
   */
  #waitForWrite(writing: Promise<void>): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      this.#rejectWrite = reject;
      writing.then(
        () => {
          this.#rejectWrite = undefined;
          resolve();
        },
        this.#owner.guard.wrap(async (cause: unknown) =>
          this.#failWriting(await this.#errorOf(cause)),
        ),
      );
    });
  }

  async #endWriting(last: Uint8Array | undefined): Promise<void> {
    if (last !== undefined) await this.#write(last);
    if (this.#writeEnd === "ended") return;
    if (this.#writeEnd !== "open") throw this.#writeEnd;
    this.#writeEnd = "ended";
    this.#owner.onEnded(this);
    try {
      await this.#waitForWrite(this.#nativeWriter.close());
    } catch (error) {
      this.#writeEnd = VortexError.from(error, "ConnectionLost");
      throw error;
    } finally {
      this.#forgetIfEnded();
    }
  }

  #abort(): void {
    const open = this.#writeEnd === "open";
    // A native close in progress continues, without being awaited.
    this.#failWriting(new VortexError("Closed", "the stream was aborted on this side"));
    if (open) this.#nativeWriter.abort().catch(() => {});
  }

  #failWriting(error: VortexError): void {
    if (this.#writeEnd === "open") this.#writeEnd = error;
    this.#rejectWrite?.(error);
    this.#rejectWrite = undefined;
    this.#forgetIfEnded();
  }

  /**
   * Converts an error of the native stream to the error for the application. If the connection has
   * ended, waits for its error.
   */
  async #errorOf(cause: unknown): Promise<VortexError> {
    const error = streamError(cause);
    if (error === undefined) return this.#owner.waitForCloseReason(cause);
    return error.code === "EarlyDataRefused" ? this.#owner.onEarlyDataRefused(error) : error;
  }

  #forgetIfEnded(): void {
    if (this.#readEnd !== "open" && this.#writeEnd !== "open") this.#owner.forget(this);
  }
}

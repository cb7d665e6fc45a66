import { VortexError } from "../../src/errors.ts";
import type { ByteReader, ByteStream, ByteWriter } from "../../src/transport/transport.ts";
import type { Guard } from "../shared/guard.ts";
import { streamError } from "./errors.ts";
import type { NativeStream } from "./native.ts";

/** Initial size of the read buffer in bytes: fits a request or a small answer. */
const MIN_READ_BUFFER_BYTES = 4 * 1024;
/**
 * Size of the read buffer in bytes, once a sender has filled the initial one. It does not shrink
 * again: on a shared connection, reads alternate between one datagram and 60 KB, so an adaptive
 * size would cause frequent allocations.
 */
const MAX_READ_BUFFER_BYTES = 64 * 1024;

/** Callbacks from a stream to its connection. */
export interface StreamOwner {
  /** Wraps callbacks of the stream. */
  readonly guard: Guard;
  /**
   * Returns the reason why the connection ended, after a failure that is not the stream's alone.
   */
  waitForCloseReason(cause: unknown): Promise<VortexError>;
  /** Called when the peer has ended or aborted its direction, or when reading was cancelled. */
  onPeerEnded(stream: DenoQuicStream): void;
  /** Called when this side has ended its direction. */
  onEnded(stream: DenoQuicStream): void;
  /**
   * Called when a stream reports refused early data. Returns `refused`, or the connection's error:
   * Deno reports the end of the connection the same way.
   */
  onEarlyDataRefused(refused: VortexError): Promise<VortexError>;
  /** Runs `act` once the server has decided on early data: on most connections at once. */
  onceEarlyDataDecided(act: () => void): void;
  /** Called when both directions have ended. */
  forget(stream: DenoQuicStream): void;
}

/**
 * Bidirectional stream of Deno's QUIC.
 *
 * Always keeps one read in progress, to detect the peer's end or abort even if the application does
 * not read. The data waits here for the application; all further data stays in the transport's
 * flow-control window.
 *
 * Deno 2.9 has two limitations. A cancelled reader sends STOP_SENDING with code 0, whatever code
 * was given. An aborted writer looks like a clean end to the peer, since quinn finishes a dropped
 * stream.
 */
export class DenoQuicStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #owner: StreamOwner;
  readonly #nativeReader: ReadableStreamBYOBReader;
  readonly #nativeWriter: WritableStreamDefaultWriter<Uint8Array>;
  /** Size of the next read buffer in bytes. */
  #bufferBytes = MIN_READ_BUFFER_BYTES;
  /** Buffer for the next read, if the application did not take the previous one. */
  #spareBuffer: ArrayBuffer | undefined;
  /** The read in progress, or its result. */
  #nextChunk: Promise<Uint8Array<ArrayBuffer> | undefined>;
  #readEnd: "open" | "ended" | VortexError = "open";
  #writeEnd: "open" | "ended" | VortexError = "open";
  /**
   * Rejects the pending read. Waits do not rely on the native stream to settle, see {@link fail}.
   */
  #rejectRead: ((error: VortexError) => void) | undefined;
  /** Rejects the pending write. */
  #rejectWrite: ((error: VortexError) => void) | undefined;
  /** True once the peer has ended or aborted its direction, or reading was cancelled. */
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

  /** True if this side has ended its direction and the peer's direction is still open. */
  get undelivered(): boolean {
    return this.#writeEnd === "ended" && !this.#peerEnded;
  }

  /**
   * Fails the stream, as this side has ended the connection. Deno 2.9 does not settle reads of a
   * stream that was opened before the handshake, when the connection is closed because the peer is
   * gone.
   */
  fail(error: VortexError): void {
    if (this.#readEnd === "open") this.#failReading(error);
    this.#failWriting(error);
  }

  // --- reading -----------------------------------------------------------------------------------

  async #read(into: Uint8Array | undefined): Promise<Uint8Array | undefined> {
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
   * Copies a chunk to `into`, up to its length, or returns the chunk. Reuses buffers not passed on.
   */
  #copyOrPass(chunk: Uint8Array<ArrayBuffer>, into: Uint8Array | undefined): Uint8Array {
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

  /** Starts the next read. */
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

  /** Waits for a native write, or until this side fails the direction. */
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

  /** Converts an error of the native stream. */
  async #errorOf(cause: unknown): Promise<VortexError> {
    const error = streamError(cause);
    if (error === undefined) return this.#owner.waitForCloseReason(cause);
    return error.code === "EarlyDataRefused" ? this.#owner.onEarlyDataRefused(error) : error;
  }

  #forgetIfEnded(): void {
    if (this.#readEnd !== "open" && this.#writeEnd !== "open") this.#owner.forget(this);
  }
}

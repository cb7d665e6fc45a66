import { VortexError } from "../../src/errors.ts";
import type { ByteReader, ByteStream, ByteWriter } from "../../src/transport/transport.ts";
import type { Guard } from "../shared/guard.ts";
import { streamError } from "./errors.ts";
import type { NativeStream } from "./native.ts";

/** Bytes that a read has room for, which is a request or a small answer. */
const MIN_ROOM_BYTES = 4 * 1024;
/**
 * The same, once a sender has filled it. It stays: reads of a stream that shares its connection bring a datagram now and 60 KB then, and
 * memory that follows them is allocated anew for most.
 */
const MAX_ROOM_BYTES = 64 * 1024;

/** What a stream needs of its connection. */
export interface StreamOwner {
  /** For the callbacks of its streams. */
  readonly guard: Guard;
  /** Why the connection ended, when something failed on it that is not the stream's own. */
  lost(cause: unknown): Promise<VortexError>;
  /** The other side has ended or aborted its direction, or will not be heard. */
  onHeard(stream: DenoQuicStream): void;
  /** This side has ended its direction. */
  onEnded(stream: DenoQuicStream): void;
  /** What it means that early data was refused: `refused` itself, or the end of the connection, of which Deno says the same. */
  onEarlyDataRefused(refused: VortexError): Promise<VortexError>;
  /** Acts once it is known whether early data was accepted, which is now on most connections. */
  onceDecided(act: () => void): void;
  /** Nothing more happens on the stream. */
  forget(stream: DenoQuicStream): void;
}

/**
 * One bidirectional stream of a connection of Deno's.
 *
 * One read is always under way, so that the other side's end or abort is known without the application reading; what it brings
 * waits here for the application, and everything else in the transport's window.
 *
 * Two things Deno has no words for (2.9): a cancelled reader asks the sender to stop with code 0, whatever code is given, and
 * an aborted writer shows to the other side as an end, since quinn finishes a stream that is dropped.
 */
export class DenoQuicStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #owner: StreamOwner;
  readonly #nativeReader: ReadableStreamBYOBReader;
  readonly #nativeWriter: WritableStreamDefaultWriter<Uint8Array>;
  #room = MIN_ROOM_BYTES;
  /** Memory for the next read, when the last one's has been given back. */
  #memory: ArrayBuffer | undefined;
  /** The read that is under way, or what it brought. */
  #ahead: Promise<Uint8Array<ArrayBuffer> | undefined>;
  #readEnd: "open" | "ended" | VortexError = "open";
  #writeEnd: "open" | "ended" | VortexError = "open";
  /** Who waits for the native stream. It is not relied on to end a wait, see {@link fail}. */
  #rejectRead: ((error: VortexError) => void) | undefined;
  #rejectWrite: ((error: VortexError) => void) | undefined;
  #heard = false;

  constructor(native: NativeStream, owner: StreamOwner) {
    this.#owner = owner;
    this.#nativeReader = native.readable.getReader({ mode: "byob" });
    this.#nativeWriter = native.writable.getWriter();
    this.#ahead = this.#readAhead();
    this.reader = { read: (into) => this.#read(into), cancel: () => this.#cancel() };
    this.writer = {
      write: (chunk) => this.#write(chunk),
      end: (last) => this.#endWriting(last),
      abort: () => this.#abort(),
    };
  }

  /** Whether this side has ended its direction and still has to hear the end of the other's. */
  get owed(): boolean {
    return this.#writeEnd === "ended" && !this.#heard;
  }

  /**
   * The connection was ended on this side. Deno 2.9 leaves the read of a stream that was opened before the handshake waiting for
   * ever, when the connection is closed because the peer is gone.
   */
  fail(error: VortexError): void {
    if (this.#readEnd === "open") this.#failReading(error);
    this.#failWriting(error);
  }

  // --- reading ----------------------------------------------------------------------------------------------------

  async #read(into: Uint8Array | undefined): Promise<Uint8Array | undefined> {
    if (this.#readEnd === "ended") return undefined;
    if (this.#readEnd !== "open") throw this.#readEnd;
    const chunk = await new Promise<Uint8Array<ArrayBuffer> | undefined>((resolve, reject) => {
      this.#rejectRead = reject;
      this.#ahead.then(
        resolve,
        this.#owner.guard.wrap(async (cause: unknown) =>
          reject(this.#endReading(await this.#errorOf(cause))),
        ),
      );
    });
    this.#rejectRead = undefined;
    // Meanwhile it may have been cancelled.
    const end = this.#readEnd as "open" | "ended" | VortexError;
    if (end instanceof VortexError) throw end;
    if (chunk === undefined) {
      this.#endReading("ended");
      return undefined;
    }
    const handed = this.#hand(chunk, into);
    const rest = chunk.subarray(handed.length);
    this.#ahead = rest.length > 0 ? Promise.resolve(rest) : this.#readAhead();
    return handed;
  }

  /** What of a chunk fits into the reader's memory, or the chunk. Memory that is not handed out is read into again. */
  #hand(chunk: Uint8Array<ArrayBuffer>, into: Uint8Array | undefined): Uint8Array {
    if (into === undefined) {
      // Few bytes do not hold a large buffer.
      if (chunk.length * 4 >= chunk.buffer.byteLength) return chunk;
      this.#memory = chunk.buffer;
      return chunk.slice();
    }
    const length = Math.min(chunk.length, into.length);
    into.set(chunk.subarray(0, length));
    if (length === chunk.length) this.#memory = chunk.buffer;
    return into.subarray(0, length);
  }

  #readAhead(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const reading = this.#receive();
    reading.then(
      this.#owner.guard.wrap((chunk: Uint8Array | undefined) => {
        if (chunk === undefined) this.#onHeard();
      }),
      this.#owner.guard.wrap((cause: unknown) => {
        this.#owner.guard.run(() => this.#errorOf(cause));
        this.#onHeard();
      }),
    );
    return reading;
  }

  async #receive(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const memory =
      this.#memory?.byteLength === this.#room ? this.#memory : new ArrayBuffer(this.#room);
    this.#memory = undefined;
    const { value, done } = await this.#nativeReader.read(new Uint8Array(memory));
    if (done) return undefined;
    if (value.length === this.#room) this.#room = MAX_ROOM_BYTES;
    return value;
  }

  #onHeard(): void {
    if (this.#heard) return;
    this.#heard = true;
    this.#owner.onHeard(this);
  }

  #endReading<T extends "ended" | VortexError>(how: T): T | VortexError {
    if (this.#readEnd === "open") this.#readEnd = how;
    this.#forgetIfOver();
    return this.#readEnd instanceof VortexError ? this.#readEnd : how;
  }

  #cancel(): void {
    if (this.#readEnd !== "open") return;
    this.#failReading(new VortexError("Closed", "the stream was cancelled on this side"));
    this.#onHeard();
  }

  #failReading(error: VortexError): void {
    this.#endReading(error);
    this.#rejectRead?.(error);
    this.#rejectRead = undefined;
    // Whatever waits for the stream holds its connection, and so a socket. Before the handshake is over, though, the read that is
    // under way is what tells of refused early data.
    this.#owner.onceDecided(() => void this.#nativeReader.cancel().catch(() => {}));
  }

  // --- writing ----------------------------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#writeEnd === "ended")
      throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#writeEnd !== "open") throw this.#writeEnd;
    if (chunk.length === 0) return;
    await this.#written(this.#nativeWriter.write(chunk));
  }

  /** Waits for the native stream, until this side gives up. */
  #written(writing: Promise<void>): Promise<void> {
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
      await this.#written(this.#nativeWriter.close());
    } catch (error) {
      this.#writeEnd = VortexError.from(error, "ConnectionLost");
      throw error;
    } finally {
      this.#forgetIfOver();
    }
  }

  #abort(): void {
    const open = this.#writeEnd === "open";
    // An end that is under way goes on, and is not waited for.
    this.#failWriting(new VortexError("Closed", "the stream was aborted on this side"));
    if (open) this.#nativeWriter.abort().catch(() => {});
  }

  #failWriting(error: VortexError): void {
    if (this.#writeEnd === "open") this.#writeEnd = error;
    this.#rejectWrite?.(error);
    this.#rejectWrite = undefined;
    this.#forgetIfOver();
  }

  async #errorOf(cause: unknown): Promise<VortexError> {
    const error = streamError(cause);
    if (error === undefined) return this.#owner.lost(cause);
    return error.code === "EarlyDataRefused" ? this.#owner.onEarlyDataRefused(error) : error;
  }

  #forgetIfOver(): void {
    if (this.#readEnd !== "open" && this.#writeEnd !== "open") this.#owner.forget(this);
  }
}

import { VortexError } from "../../src/errors.ts";
import {
  type ByteReader,
  type ByteStream,
  type ByteWriter,
  StreamCode,
} from "../../src/transport/transport.ts";
import { isWorthFreeing, releaseMemory } from "../shared/release-memory.ts";
import type { NodeQuicConnection } from "./connection.ts";
import { drainable, type NativeStream } from "./native.ts";

/**
 * Maximum size in bytes of a chunk that a read assembles from smaller chunks, if the caller
 * provides no buffer.
 */
const MAX_GATHERED_CHUNK_BYTES = 256 * 1024;
/**
 * Maximum number of bytes per write call to `node:quic`. A call accepts a chunk only as a whole,
 * however little space the send buffer has. At every turn of the event loop, `node:quic` copies all
 * unsent data, so little data should be unsent.
 */
const MAX_WRITE_BYTES = 64 * 1024;
/**
 * Maximum number of microtask turns in which the stream iterator of `node:quic` yields data that it
 * already has. The value includes a margin.
 */
const MAX_MICROTASK_TURNS = 12;

/** Pending read: the caller's buffer, and the functions that settle its promise. */
interface PendingRead {
  readonly into: Uint8Array<ArrayBuffer> | undefined;
  resolve(chunk: Uint8Array<ArrayBuffer> | undefined): void;
  reject(error: VortexError): void;
}

/**
 * Bidirectional stream of `node:quic`.
 *
 * The `node:quic` module buffers received data even if the application does not read. In Bun 1.4,
 * `on_stream_read` consumes everything received, and thus returns credit to the sender.
 *
 * So this class fetches all data as it arrives, which takes no additional memory, and enforces
 * `unreadLimit`. A read returns the buffered bytes as one chunk. The bytes are copied, so that the
 * memory of `node:quic` can be freed.
 */
export class NodeQuicStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #native: NativeStream;
  readonly #connection: NodeQuicConnection;
  /**
   * True if the stream was opened before the handshake was complete. Then the peer may refuse its
   * data.
   */
  readonly #early: boolean;
  /** Received chunks that the application has not read yet. */
  #unreadChunks: Uint8Array<ArrayBuffer>[] = [];
  /** Number of bytes of the first unread chunk that the application has already read. */
  #readOffset = 0;
  /** Number of received bytes that the application has not read yet. */
  #unreadBytes = 0;
  #pendingRead: PendingRead | undefined;
  /**
   * True once all data up to the peer's FIN has been received. The application may not have read
   * all of it yet.
   */
  #complete = false;
  #readFailure: VortexError | undefined;
  /**
   * Function that wakes a write that waits for space in the send buffer of `node:quic`. Undefined
   * if no write waits.
   */
  #wakeWriter: (() => void) | undefined;
  #writeEnd: "open" | "ended" | VortexError = "open";

  constructor(native: NativeStream, connection: NodeQuicConnection, early: boolean) {
    this.#native = native;
    this.#connection = connection;
    this.#early = early;
    this.reader = {
      read: (into) => this.#read(into),
      cancel: (code = StreamCode.Cancelled) => this.#cancel(code),
    };
    this.writer = {
      write: (chunk) => this.#write(chunk),
      end: (last) => this.#endWriting(last),
      abort: (code = StreamCode.Cancelled) => this.#abort(code),
    };
    connection.guard.run(() => this.#receive());
  }

  // --- called by the connection ------------------------------------------------------------------

  /**
   * Fails the stream because the connection has ended. If all data up to the peer's FIN was
   * received, the application can still read it.
   */
  fail(error: VortexError): void {
    if (!this.#complete) this.#failReading(error);
    this.#failWriting(error);
  }

  /**
   * Resets the sending direction, unless the application has ended it. Returns true if the
   * application has ended it, so that its bytes must still be delivered.
   */
  resetUnlessEnded(): boolean {
    this.#abort(StreamCode.Cancelled);
    return this.#writeEnd === "ended";
  }

  /**
   * Wakes a waiting write if the peer has stopped the sending direction. The `node:quic` module has
   * no event for STOP_SENDING, so the connection calls this method regularly.
   */
  wakeIfStopped(): void {
    if (typeof this.#native.writer.desiredSize !== "number") this.#wakeWriter?.();
  }

  // --- reading -----------------------------------------------------------------------------------

  /**
   * Receives data until the stream ends, then determines whether it ended with a FIN, a reset or
   * the connection.
   */
  async #receive(): Promise<void> {
    const batches = this.#native[Symbol.asyncIterator]();
    let clean = false;
    try {
      for (let seen = 0; ; seen++) {
        const next = batches.next();
        const prompt = seen > 0 && (await settlesWithinMicrotasks(next));
        const { done, value } = await next;
        if (done === true) {
          clean = prompt && !this.#native.destroyed;
          break;
        }
        if (!this.#onBatch(value)) {
          await batches.return?.();
          return;
        }
      }
    } catch (cause) {
      // For example "… reset by the peer with error code 7". The code appears only in the message.
      const [, digits] = /code (\d+)/.exec(cause instanceof Error ? cause.message : "") ?? [];
      const code = digits === undefined ? 0 : Number(digits);
      this.#failReading(
        await this.#connection.explainReset(
          "the peer aborted the stream",
          code,
          this.#early,
          cause,
        ),
      );
      return;
    }
    if (this.#readFailure !== undefined) return;
    if (!clean && (await this.#isCutOff())) {
      this.#failReading(
        await this.#connection.explainReset("ended before its FIN", 0, this.#early),
      );
      return;
    }
    this.#complete = true;
    this.#pendingRead?.resolve(undefined);
    this.#pendingRead = undefined;
  }

  /**
   * Returns true if the iteration over received data ended because the connection ended. Returns
   * false if it ended with the stream's FIN. The `node:quic` module shows both in the same way.
   *
   * A FIN usually arrives together with the last bytes. The end of the connection arrives without
   * bytes: `node:quic` closes the stream within the same turn of the event loop. Then `node:quic`
   * closes the connection, see {@link NodeQuicConnection.staysOpen}.
   */
  async #isCutOff(): Promise<boolean> {
    if (this.#connection.hasEnded) return true;
    if (this.#writeEnd === "open") {
      // A FIN leaves the sending direction open.
      await new Promise((resolve) => setImmediate(resolve));
      if (!this.#native.destroyed) return false;
    }
    return !(await this.#connection.staysOpen());
  }

  /**
   * Stores received chunks and completes the pending read. Returns false if no more data should be
   * received, because reading has failed or `unreadLimit` is exceeded.
   */
  #onBatch(batch: readonly Uint8Array<ArrayBuffer>[]): boolean {
    if (this.#readFailure !== undefined) return false;
    let length = 0;
    for (const chunk of batch) {
      this.#unreadChunks.push(chunk);
      length += chunk.length;
    }
    this.#addUnread(length);
    const waiting = this.#pendingRead;
    if (waiting !== undefined && this.#unreadBytes > 0) {
      this.#pendingRead = undefined;
      waiting.resolve(this.#takeChunk(waiting.into));
    }
    const limit = this.#connection.exceededLimit(this.#unreadBytes);
    if (limit === undefined) return true;
    this.#stopSending(StreamCode.Busy);
    const message = `too many unread bytes: expected at most ${limit} (unreadLimit), got more; read faster or raise the limit`;
    this.#failReading(new VortexError("LimitExceeded", message));
    return false;
  }

  async #read(
    into: Uint8Array<ArrayBuffer> | undefined,
  ): Promise<Uint8Array<ArrayBuffer> | undefined> {
    if (this.#readFailure !== undefined) throw this.#readFailure;
    if (this.#unreadBytes > 0) return this.#takeChunk(into);
    if (this.#complete) return undefined;
    return new Promise((resolve, reject) => {
      this.#pendingRead = { into, resolve, reject };
    });
  }

  /**
   * Removes unread bytes and returns them as one chunk. The chunk has at most the length of `into`,
   * or at most {@link MAX_GATHERED_CHUNK_BYTES} if `into` is undefined.
   */
  #takeChunk(into: Uint8Array<ArrayBuffer> | undefined): Uint8Array<ArrayBuffer> {
    const first = this.#unreadChunks[0];
    if (into === undefined && first !== undefined && this.#unreadChunks.length === 1) {
      this.#unreadChunks = [];
      this.#addUnread(-this.#unreadBytes);
      const rest = first.subarray(this.#readOffset);
      this.#readOffset = 0;
      return rest;
    }
    const target = into ?? new Uint8Array(Math.min(this.#unreadBytes, MAX_GATHERED_CHUNK_BYTES));
    const spent: ArrayBuffer[] = [];
    let length = 0;
    let count = 0;
    for (const chunk of this.#unreadChunks) {
      const part = chunk.subarray(this.#readOffset, this.#readOffset + target.length - length);
      target.set(part, length);
      length += part.length;
      this.#readOffset += part.length;
      if (this.#readOffset < chunk.length) break;
      this.#readOffset = 0;
      count++;
      if (isWorthFreeing(chunk)) spent.push(chunk.buffer);
      if (length === target.length) break;
    }
    this.#unreadChunks.splice(0, count);
    this.#addUnread(-length);
    if (spent.length > 0) releaseMemory(spent);
    return target.subarray(0, length);
  }

  /**
   * Adds `bytes` to the number of unread bytes, for this stream and its connection. A negative
   * value subtracts.
   */
  #addUnread(bytes: number): void {
    this.#unreadBytes += bytes;
    this.#connection.countUnread(bytes);
  }

  #cancel(code: number): void {
    if (this.#readFailure !== undefined || (this.#complete && this.#unreadBytes === 0)) return;
    if (!this.#complete) this.#stopSending(code);
    this.#failReading(new VortexError("Closed", "the stream was cancelled on this side"));
  }

  #failReading(error: VortexError): void {
    if (this.#readFailure !== undefined) return;
    this.#readFailure = error;
    this.#unreadChunks = [];
    this.#readOffset = 0;
    this.#addUnread(-this.#unreadBytes);
    this.#pendingRead?.reject(error);
    this.#pendingRead = undefined;
  }

  #stopSending(code: number): void {
    this.#native.stopSending(BigInt(code));
  }

  // --- writing -----------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length || at === 0; at += MAX_WRITE_BYTES) {
      const slice =
        chunk.length <= MAX_WRITE_BYTES ? chunk : chunk.subarray(at, at + MAX_WRITE_BYTES);
      for (;;) {
        if (this.#writeEnd === "ended")
          throw new VortexError("Closed", "the stream was ended on this side");
        if (this.#writeEnd !== "open") throw this.#writeEnd;
        if (this.#native.writer.writeSync(slice)) break;
        await this.#waitForSpace();
      }
    }
  }

  /**
   * Waits until the send buffer of `node:quic` has space. Fails the sending direction if the peer
   * has stopped this direction or the connection has ended.
   */
  async #waitForSpace(): Promise<void> {
    const { writer } = this.#native;
    const drained = writer[drainable]?.();
    if (drained) {
      await new Promise<void>((resolve) => {
        this.#wakeWriter = resolve;
        drained.then(
          () => resolve(),
          () => resolve(),
        );
        this.#connection.setWriting(this, true);
      });
      this.#wakeWriter = undefined;
      this.#connection.setWriting(this, false);
    }
    if (this.#writeEnd === "open" && typeof writer.desiredSize !== "number")
      await this.#failAsStopped();
  }

  /** Fails the sending direction, because the peer sent STOP_SENDING or the connection ended. */
  async #failAsStopped(): Promise<void> {
    this.#failWriting(
      await this.#connection.explainReset("the peer stopped reading", 0, this.#early),
    );
  }

  async #endWriting(last: Uint8Array | undefined): Promise<void> {
    if (last !== undefined) await this.#write(last);
    if (this.#writeEnd === "ended") return;
    if (this.#writeEnd !== "open") throw this.#writeEnd;
    if (this.#native.writer.endSync() < 0) {
      await this.#failAsStopped();
      if (this.#writeEnd !== "open") throw this.#writeEnd;
    }
    this.#writeEnd = "ended";
  }

  #abort(code: number): void {
    if (this.#writeEnd !== "open") return;
    this.#failWriting(new VortexError("Closed", "the stream was aborted on this side"));
    this.#native.resetStream(BigInt(code));
  }

  #failWriting(error: VortexError): void {
    if (this.#writeEnd === "open") this.#writeEnd = error;
    this.#wakeWriter?.();
  }
}

/**
 * Returns true if `promise` settles within {@link MAX_MICROTASK_TURNS}, which means that it did not
 * wait for I/O.
 */
async function settlesWithinMicrotasks(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const settle = (): void => {
    settled = true;
  };
  promise.then(settle, settle);
  for (let turn = 0; turn < MAX_MICROTASK_TURNS && !settled; turn++) await undefined;
  return settled;
}

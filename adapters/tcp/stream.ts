import type { Socket } from "node:net";
import { VortexError } from "../../src/errors.ts";
import type { ByteReader, ByteWriter } from "../../src/transport/transport.ts";
import type { SocketByteStream, SocketEvent } from "../shared/exchange.ts";
import type { Guard } from "../shared/guard.ts";
import { nativeError } from "../shared/native-error.ts";
import { isWorthFreeing, releaseMemory } from "../shared/release-memory.ts";
import type { ReadBuffer } from "./read-buffer.ts";

/** Number of unread bytes at which a socket without a {@link ReadBuffer} is paused. */
export const READ_AHEAD_BYTES: number = 512 * 1024;

/** Pending call of the `read` method of a stream's reader. */
interface PendingRead {
  readonly into: Uint8Array<ArrayBuffer> | undefined;
  resolve(chunk: Uint8Array<ArrayBuffer> | undefined): void;
  reject(error: VortexError): void;
}

/** Byte stream on one TCP socket of node:net. */
export class SocketStream implements SocketByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly finished: Promise<void>;
  onEvent: (event: SocketEvent) => void = () => {};
  readonly #socket: Socket;
  readonly #guard: Guard;
  /** Number of unread bytes at which the socket is paused, if it has no {@link ReadBuffer}. */
  readonly #readAhead: number;
  /** Callback of the last write of a message: the system has accepted all bytes. */
  readonly #onFlushed: () => void;
  /** Buffer that the socket reads into; undefined if node:net allocates memory for each read. */
  readonly #buffer: ReadBuffer | undefined;
  /** Received chunks with unread bytes. Always empty if the socket has a read buffer. */
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  /** Number of bytes of the first received chunk that are already read. */
  #consumed = 0;
  /** Number of unread bytes in the received chunks. */
  #heldBytes = 0;
  /** True while the socket is paused because its read buffer contains unread bytes. */
  #paused = false;
  #readEnded = false;
  #writeEnded = false;
  #cancelled = false;
  /** True between two exchanges: no byte of either side is missing. */
  #idle = false;
  #failure: VortexError | undefined;
  #pendingRead: PendingRead | undefined;
  #wakeWriter: (() => void) | undefined;

  /**
   * @param parent guard that catches, counts and reports exceptions of the socket's event
   * callbacks. An exception also destroys the socket.
   * @param buffer buffer that the socket reads into, if any
   * @param readAhead number of unread bytes at which the socket is paused, without a buffer
   */
  constructor(
    socket: Socket,
    parent: Guard,
    buffer?: ReadBuffer,
    readAhead: number = READ_AHEAD_BYTES,
  ) {
    this.#socket = socket;
    this.#buffer = buffer;
    this.#readAhead = readAhead;
    const guard = parent.of((error) => this.destroy(error));
    this.#guard = guard;
    const onData = guard.wrap((chunk: Uint8Array<ArrayBuffer>) => this.#onData(chunk));
    if (buffer === undefined) socket.on("data", onData);
    else {
      buffer.onBytes = () => {
        let mayContinue = false;
        guard.run(() => {
          mayContinue = this.#onBytes();
        });
        return mayContinue;
      };
    }
    const onEnd = guard.wrap(() => {
      // Bun emits "end" also when this side destroys the socket.
      if (this.#failure !== undefined) return;
      this.#readEnded = true;
      this.onEvent("ended");
      this.#wakeReader();
    });
    const onDrain = guard.wrap(() => this.#wakeWriter?.());
    this.#onFlushed = onDrain;
    const onError = guard.wrap((error: Error) => {
      this.onEvent("failed");
      this.#fail(nativeError(error, "ConnectionLost", "connection failed"));
    });
    socket.on("end", onEnd);
    socket.on("drain", onDrain);
    socket.on("error", onError);
    this.finished = new Promise((resolve) => {
      const onClose = guard.wrap(() => {
        this.#fail(new VortexError("ConnectionLost", "connection lost: the socket is closed"));
        resolve();
      });
      socket.once("close", onClose);
    });
    this.reader = { read: (into) => this.#read(into), cancel: () => this.#cancel() };
    this.writer = {
      write: (chunk) => this.#write(chunk),
      end: (last) => this.#endWriting(last),
      abort: () => this.#abortWriting(),
    };
  }

  /** Error with which the socket failed; undefined while it is open, and after a clean close. */
  get failure(): VortexError | undefined {
    return this.#failure;
  }

  get unread(): number {
    return this.#buffer?.unread ?? this.#heldBytes;
  }

  park(): void {
    this.#idle = true;
    this.#socket.unref();
  }

  unpark(): void {
    if (!this.#idle) return;
    this.#idle = false;
    this.#socket.ref();
  }

  async drain(grace: number): Promise<void> {
    if (!this.#writeEnded || this.#failure !== undefined || grace === 0) return;
    await new Promise<void>((resolve) => {
      const timer = this.#guard.clock.setTimer(resolve, grace);
      void this.finished.then(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /**
   * Ends both directions at once; pending calls fail with `error`. Sends a TCP reset, unless this
   * side has already sent all of its data and the end of the stream, or the socket is idle.
   */
  destroy(error: VortexError): void {
    this.#fail(error);
    const socket = this.#socket;
    if (socket.destroyed) return;
    // A reset signals missing bytes, while a plain close could look like the end of the stream.
    // After the end it is unnecessary. Node's reset also fails during the shutdown (EINVAL), and
    // then the process never exits.
    if (this.#idle || (socket.writableEnded && this.#flushed)) socket.destroy();
    else socket.resetAndDestroy();
  }

  // --- reading ----------------------------------------------------------------------------------

  get #hasBytes(): boolean {
    return this.#chunks.length > 0 || (this.#buffer?.hasBytes ?? false);
  }

  /**
   * Handles received bytes in the read buffer. Returns true if all of them are consumed, so that
   * the socket may overwrite the buffer.
   */
  #onBytes(): boolean {
    this.unpark();
    this.onEvent("received");
    if (this.#cancelled) this.#buffer?.drop();
    else this.#wakeReader();
    this.#paused = this.#buffer?.hasBytes ?? false;
    return !this.#paused;
  }

  #onData(chunk: Uint8Array<ArrayBuffer>): void {
    if (this.#cancelled) return;
    this.unpark();
    this.onEvent("received");
    // A plain Uint8Array instead of a Buffer, so that users get the same type on every runtime.
    this.#chunks.push(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
    this.#heldBytes += chunk.length;
    if (this.#heldBytes >= this.#readAhead) this.#socket.pause();
    this.#wakeReader();
  }

  #read(into: Uint8Array<ArrayBuffer> | undefined): Promise<Uint8Array<ArrayBuffer> | undefined> {
    return new Promise((resolve, reject) => {
      this.#pendingRead = { into, resolve, reject };
      this.#wakeReader();
    });
  }

  /**
   * Settles the pending `read` call if bytes are available, or if the stream has ended or failed.
   */
  #wakeReader(): void {
    const pending = this.#pendingRead;
    if (pending === undefined) return;
    if (!this.#cancelled && this.#hasBytes) pending.resolve(this.#take(pending.into));
    else if (this.#cancelled)
      pending.reject(new VortexError("Closed", "stream cancelled on this side"));
    else if (this.#readEnded) pending.resolve(undefined);
    else if (this.#failure !== undefined) pending.reject(this.#failure);
    else return;
    this.#pendingRead = undefined;
  }

  #take(into: Uint8Array<ArrayBuffer> | undefined): Uint8Array<ArrayBuffer> | undefined {
    if (this.#buffer !== undefined) {
      const chunk = this.#buffer.take(into);
      if (this.#paused && !this.#buffer.hasBytes) {
        this.#paused = false;
        this.#socket.resume();
      }
      return chunk;
    }
    const [chunk] = this.#chunks;
    if (chunk === undefined) return undefined;
    const start = this.#consumed;
    const end = Math.min(chunk.length, start + (into?.length ?? chunk.length));
    this.#consumed = end;
    this.#heldBytes -= end - start;
    if (end === chunk.length) {
      this.#chunks.shift();
      this.#consumed = 0;
    }
    if (this.#heldBytes < this.#readAhead && this.#socket.isPaused()) this.#socket.resume();
    const part = chunk.subarray(start, end);
    if (into === undefined) return part;
    // Copied to the reader's memory, so that the chunk's memory can be freed.
    into.set(part);
    if (end === chunk.length && isWorthFreeing(chunk)) releaseMemory([chunk.buffer]);
    return into.subarray(0, end - start);
  }

  #cancel(): void {
    if (this.#cancelled || (this.#readEnded && !this.#hasBytes)) return;
    this.#cancelled = true;
    this.#chunks = [];
    this.#consumed = 0;
    this.#heldBytes = 0;
    this.#buffer?.drop();
    this.#wakeReader();
    // TCP cannot cancel one direction. After this side's end, a reset ends both. Before it,
    // received bytes are discarded.
    if (this.#writeEnded) this.destroy(new VortexError("Closed", "stream cancelled on this side"));
    else this.#socket.resume();
  }

  // --- writing ----------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#writeEnded) throw new VortexError("Closed", "stream ended on this side");
    if (this.#failure !== undefined) throw this.#failure;
    if (chunk.length === 0 || this.#socket.write(chunk)) return;
    await new Promise<void>((resolve) => {
      this.#wakeWriter = resolve;
    });
    if (this.#failure !== undefined) throw this.#failure;
  }

  async send(last: Uint8Array): Promise<void> {
    if (this.#writeEnded) throw new VortexError("Closed", "stream ended on this side");
    if (this.#failure !== undefined) throw this.#failure;
    this.#socket.write(last, this.#onFlushed);
    // Waits until the kernel has all bytes, so that the caller's timeout applies, and the socket is
    // not taken for idle before.
    if (this.#flushed) return;
    await new Promise<void>((resolve) => {
      this.#wakeWriter = resolve;
    });
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #endWriting(last: Uint8Array | undefined): Promise<void> {
    if (last !== undefined) await this.#write(last);
    if (this.#writeEnded) return;
    if (this.#failure !== undefined) throw this.#failure;
    this.#writeEnded = true;
    this.#socket.end();
    // Waits until the kernel has all bytes, so that the caller's timeout applies. Otherwise a peer
    // that sends a request, ends its side and never reads would keep the socket and its buffer
    // forever.
    if (this.#flushed) return;
    await new Promise<void>((resolve) => {
      this.#wakeWriter = resolve;
      this.#socket.once("finish", resolve);
    });
    if (this.#failure !== undefined) throw this.#failure;
  }

  #abortWriting(): void {
    if (this.#writeEnded && this.#flushed && this.#failure === undefined) return;
    this.#writeEnded = true;
    this.destroy(new VortexError("Closed", "stream aborted on this side"));
  }

  /** True if the kernel has accepted all written bytes. */
  get #flushed(): boolean {
    return this.#socket.writableLength === 0;
  }

  #fail(error: VortexError): void {
    this.#failure ??= error;
    this.#wakeReader();
    this.#wakeWriter?.();
  }
}

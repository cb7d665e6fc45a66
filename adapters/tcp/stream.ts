import type { Socket } from "node:net";
import { VortexError } from "../../src/errors.ts";
import type { ByteReader, ByteWriter } from "../../src/transport/transport.ts";
import type { SocketByteStream } from "../shared/dialled-peer.ts";
import type { Guard } from "../shared/guard.ts";
import { nativeError } from "../shared/native-error.ts";
import { isWorthFreeing, releaseMemory } from "../shared/release-memory.ts";
import type { ReadBuffer } from "./read-buffer.ts";

/** Bytes that a socket without a {@link ReadBuffer} holds for its reader before it is paused. */
export const READ_AHEAD: number = 512 * 1024;

/** A reader that waits. */
interface Waiting {
  readonly into: Uint8Array | undefined;
  resolve(chunk: Uint8Array | undefined): void;
  reject(error: VortexError): void;
}

/** A socket as a stream of bytes. */
export class SocketStream implements SocketByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly finished: Promise<void>;
  readonly #socket: Socket;
  readonly #guard: Guard;
  /** Where the socket reads to, and its bytes that nobody has taken yet; undefined for a socket that hands out memory of its own. */
  readonly #buffer: ReadBuffer | undefined;
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  /** Bytes of the first of them that the reader has. */
  #taken = 0;
  #held = 0;
  /** The socket waits until its buffer is empty. */
  #paused = false;
  #readEnded = false;
  #writeEnded = false;
  #cancelled = false;
  #failure: VortexError | undefined;
  #waiting: Waiting | undefined;
  #wakeWriter: (() => void) | undefined;

  /**
   * @param parent counts and reports exceptions in event callbacks; each ends the socket
   * @param buffer the one that the socket was made with
   */
  constructor(socket: Socket, parent: Guard, buffer?: ReadBuffer) {
    this.#socket = socket;
    this.#buffer = buffer;
    const guard = parent.of((error) => this.destroy(error));
    this.#guard = guard;
    const onData = guard.wrap((chunk: Uint8Array<ArrayBuffer>) => this.#onData(chunk));
    if (buffer === undefined) socket.on("data", onData);
    else {
      buffer.onBytes = () => {
        let goesOn = false;
        guard.run(() => {
          goesOn = this.#onBytes();
        });
        return goesOn;
      };
    }
    const onEnd = guard.wrap(() => {
      // Bun tells of an end also when this side destroys the socket.
      if (this.#failure !== undefined) return;
      this.#readEnded = true;
      this.#wakeReader();
    });
    const onDrain = guard.wrap(() => this.#wakeWriter?.());
    const onError = guard.wrap((error: Error) =>
      this.#fail(nativeError(error, "ConnectionLost", "the connection failed")),
    );
    socket.on("end", onEnd);
    socket.on("drain", onDrain);
    socket.on("error", onError);
    this.finished = new Promise((resolve) => {
      const onClose = guard.wrap(() => {
        this.#fail(new VortexError("ConnectionLost", "the connection ended"));
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

  /** What ended the socket, if anything did. */
  get failure(): VortexError | undefined {
    return this.#failure;
  }

  get pristine(): boolean {
    return this.#failure === undefined && !this.#readEnded && !this.#hasBytes;
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

  /** Ends both directions at once with a reset. */
  destroy(error: VortexError): void {
    this.#fail(error);
    const socket = this.#socket;
    if (socket.destroyed) return;
    // A reset tells the peer that bytes are missing, where a plain close could pass for the end of the stream. After the
    // end it is needless, and Node's fails while the shutdown is under way (EINVAL), after which its process never exits.
    if (socket.writableEnded && this.#flushed) socket.destroy();
    else socket.resetAndDestroy();
  }

  // --- reading ----------------------------------------------------------------------------------------------------

  get #hasBytes(): boolean {
    return this.#chunks.length > 0 || (this.#buffer?.filled ?? false);
  }

  /** The buffer was filled. Whether the socket may fill it again. */
  #onBytes(): boolean {
    if (this.#cancelled) this.#buffer?.drop();
    else this.#wakeReader();
    this.#paused = this.#buffer?.filled ?? false;
    return !this.#paused;
  }

  #onData(chunk: Uint8Array<ArrayBuffer>): void {
    if (this.#cancelled) return;
    // Not a Buffer: users get plain bytes on every runtime.
    this.#chunks.push(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
    this.#held += chunk.length;
    if (this.#held >= READ_AHEAD) this.#socket.pause();
    this.#wakeReader();
  }

  #read(into: Uint8Array | undefined): Promise<Uint8Array | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiting = { into, resolve, reject };
      this.#wakeReader();
    });
  }

  /** Gives the reader that waits, if one does, what there is for it. */
  #wakeReader(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    if (!this.#cancelled && this.#hasBytes) waiting.resolve(this.#take(waiting.into));
    else if (this.#cancelled)
      waiting.reject(new VortexError("Closed", "the stream was cancelled on this side"));
    else if (this.#readEnded) waiting.resolve(undefined);
    else if (this.#failure !== undefined) waiting.reject(this.#failure);
    else return;
    this.#waiting = undefined;
  }

  #take(into: Uint8Array | undefined): Uint8Array | undefined {
    if (this.#buffer !== undefined) {
      const chunk = this.#buffer.take(into);
      if (this.#paused && !this.#buffer.filled) {
        this.#paused = false;
        this.#socket.resume();
      }
      return chunk;
    }
    const [chunk] = this.#chunks;
    if (chunk === undefined) return undefined;
    const start = this.#taken;
    const end = Math.min(chunk.length, start + (into?.length ?? chunk.length));
    this.#taken = end;
    this.#held -= end - start;
    if (end === chunk.length) {
      this.#chunks.shift();
      this.#taken = 0;
    }
    if (this.#held < READ_AHEAD && this.#socket.isPaused()) this.#socket.resume();
    const part = chunk.subarray(start, end);
    if (into === undefined) return part;
    // Into the reader's memory although there is memory already, which can be freed then.
    into.set(part);
    if (end === chunk.length && isWorthFreeing(chunk)) releaseMemory([chunk.buffer]);
    return into.subarray(0, end - start);
  }

  #cancel(): void {
    if (this.#cancelled || (this.#readEnded && !this.#hasBytes)) return;
    this.#cancelled = true;
    this.#chunks = [];
    this.#taken = 0;
    this.#held = 0;
    this.#buffer?.drop();
    this.#wakeReader();
    // TCP has no way to refuse one direction. Once this side has nothing more to say, a reset ends both; before that,
    // what comes is dropped unread.
    if (this.#writeEnded)
      this.destroy(new VortexError("Closed", "the stream was cancelled on this side"));
    else this.#socket.resume();
  }

  // --- writing ----------------------------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#writeEnded) throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#failure !== undefined) throw this.#failure;
    if (chunk.length === 0 || this.#socket.write(chunk)) return;
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
    // What the kernel has not taken is a reader's to take: with nobody to wait for that, a peer that asks, ends its side and never
    // reads would have a socket and its buffer for ever.
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
    this.destroy(new VortexError("Closed", "the stream was aborted on this side"));
  }

  /** Whether the kernel has all that was written. */
  get #flushed(): boolean {
    return this.#socket.writableLength === 0;
  }

  #fail(error: VortexError): void {
    this.#failure ??= error;
    this.#wakeReader();
    this.#wakeWriter?.();
  }
}

import { VortexError } from "../../src/errors.ts";
import type { ByteReader, ByteWriter } from "../../src/transport/transport.ts";
import type { SocketByteStream } from "../shared/dialled-peer.ts";
import { Guard } from "../shared/guard.ts";
import type { WorkerSocket } from "./native.ts";

type ReadResult = Awaited<ReturnType<ReadableStreamDefaultReader<Uint8Array>["read"]>>;

/**
 * A socket of workerd as a stream of bytes.
 *
 * The default reader is the one to use: workerd 1.20260426 hands out at most 4,096 bytes a read, however long the buffer of a
 * BYOB reader is, and long buffers only cost time.
 */
export class SocketStream implements SocketByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly finished: Promise<void>;
  readonly #socket: WorkerSocket;
  readonly #guard = new Guard({ end: (error) => this.destroy(error) });
  readonly #source: ReadableStreamDefaultReader<Uint8Array>;
  readonly #sink: WritableStreamDefaultWriter<Uint8Array>;
  #resolveFinished: () => void = () => {};
  /** A read that `drain` began, for the next reader to take. */
  #ahead: Promise<ReadResult> | undefined;
  #rejectWrite: ((error: VortexError) => void) | undefined;
  #reading = false;
  #readEnded = false;
  #writeEnded = false;
  #cancelled = false;
  #gone = false;
  #failure: VortexError | undefined;

  constructor(socket: WorkerSocket) {
    this.#socket = socket;
    this.#source = socket.readable.getReader();
    this.#sink = socket.writable.getWriter();
    this.finished = new Promise((resolve) => {
      this.#resolveFinished = resolve;
    });
    const gone = (): void => {
      this.#gone = true;
    };
    socket.closed.then(gone, gone);
    // What these tell, the calls tell too.
    this.#source.closed.catch(() => {});
    this.#sink.closed.catch(() => {});
    this.#sink.ready.catch(() => {});
    this.reader = { read: () => this.#read(), cancel: () => this.#cancel() };
    this.writer = {
      write: (chunk) => this.#write(chunk),
      end: (last) => this.#endWriting(last),
      abort: () => this.#abortWriting(),
    };
  }

  /** Until the socket is known to be of no use for a new stream. */
  get pristine(): boolean {
    return !this.#gone && this.#failure === undefined;
  }

  async drain(grace: number): Promise<void> {
    if (!this.#writeEnded || this.#failure !== undefined || grace === 0) return;
    // The peer's end is seen by reading only, and perhaps nobody reads.
    if (!this.#reading && !this.#readEnded && !this.#cancelled && this.#ahead === undefined) {
      this.#ahead = this.#source.read();
      this.#ahead.then(
        this.#guard.wrap(({ done }: ReadResult) => done && this.#onEnd()),
        this.#guard.wrap((error: unknown) => this.#fail(streamError(error))),
      );
    }
    await new Promise<void>((resolve) => {
      const timer = this.#guard.clock.setTimer(resolve, grace);
      void this.finished.then(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /** Ends both directions at once; the peer sees an end, or a reset where it has sent what nobody read. */
  destroy(error: VortexError): void {
    this.#fail(error);
    // Not the writer's abort(): a socket whose writer was aborted stays open as long as the request that opened it, whatever
    // else is called. close() waits for a write under way, hence the cancel for a read under way.
    this.#source.cancel(error).catch(() => {});
    this.#socket.close().catch(() => {});
  }

  async #read(): Promise<Uint8Array | undefined> {
    for (;;) {
      if (this.#cancelled) throw cancelledHere();
      if (this.#readEnded) return undefined;
      if (this.#failure !== undefined) throw this.#failure;
      const { done, value } = await this.#next();
      if (done) this.#onEnd();
      else if (value.length > 0 && !this.#cancelled && this.#failure === undefined) return value;
    }
  }

  async #next(): Promise<ReadResult> {
    const pending = this.#ahead ?? this.#source.read();
    this.#ahead = undefined;
    this.#reading = true;
    try {
      return await pending;
    } catch (error) {
      if (this.#cancelled) throw cancelledHere();
      throw this.#fail(streamError(error));
    } finally {
      this.#reading = false;
    }
  }

  #onEnd(): void {
    // workerd reports a reset as an end. What tells them apart is that a reset ends the socket too; but not once this side
    // has ended its direction, after which the socket tells of nothing.
    if (this.#gone && !this.#writeEnded)
      this.#fail(new VortexError("StreamReset", "the peer reset the connection"));
    if (this.#failure !== undefined || this.#cancelled) return;
    this.#readEnded = true;
    if (!this.#writeEnded) return;
    // Without this the file descriptor lasts until the garbage collector comes.
    this.#socket.close().catch(() => {});
    this.#resolveFinished();
  }

  #cancel(): void {
    if (this.#cancelled || this.#readEnded) return;
    this.#cancelled = true;
    // TCP has no way to refuse one direction. Once this side has nothing more to say, closing ends both; before that, what
    // comes is not read, and holds the peer.
    if (this.#writeEnded) this.destroy(cancelledHere());
    else this.#source.cancel().catch(() => {});
  }

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#writeEnded) throw endedHere();
    if (this.#failure !== undefined) throw this.#failure;
    if (chunk.length === 0) return;
    await new Promise<void>((resolve, reject) => {
      // What ends the stream ends the wait too: workerd goes on until the peer has read.
      this.#rejectWrite = reject;
      const onFailure = this.#guard.wrap((error: unknown) =>
        reject(this.#fail(streamError(error))),
      );
      this.#sink.write(chunk).then(resolve, onFailure);
    });
  }

  async #endWriting(last: Uint8Array | undefined): Promise<void> {
    if (last !== undefined) await this.#write(last);
    if (this.#writeEnded) return;
    if (this.#failure !== undefined) throw this.#failure;
    this.#writeEnded = true;
    try {
      await this.#sink.close();
    } catch (error) {
      throw this.#fail(streamError(error));
    }
    // The socket is not closed here: bytes may still be on their way through workerd.
    if (this.#readEnded || this.#cancelled) this.#resolveFinished();
  }

  #abortWriting(): void {
    if (this.#writeEnded && this.#failure === undefined) return;
    this.#writeEnded = true;
    this.destroy(new VortexError("Closed", "the stream was aborted on this side"));
  }

  /** Keeps the first failure, which is what every later call fails with. */
  #fail(error: VortexError): VortexError {
    this.#failure ??= error;
    this.#rejectWrite?.(this.#failure);
    this.#resolveFinished();
    return this.#failure;
  }
}

/** `Network connection lost.` is a reset or a socket that is gone; others are of workerd's own making. */
function streamError(error: unknown): VortexError {
  const reset = error instanceof Error && error.message.includes("Network connection lost");
  return VortexError.from(error, reset ? "StreamReset" : "ConnectionLost", "the connection failed");
}

function cancelledHere(): VortexError {
  return new VortexError("Closed", "the stream was cancelled on this side");
}

function endedHere(): VortexError {
  return new VortexError("Closed", "the stream was ended on this side");
}

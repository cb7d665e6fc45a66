import { VortexError } from "../../src/errors.ts";
import type { ByteReader, ByteWriter } from "../../src/transport/transport.ts";
import type { SocketByteStream, SocketEvent } from "../shared/exchange.ts";
import { Guard } from "../shared/guard.ts";
import type { WorkerSocket } from "./native.ts";

type ReadResult = Awaited<ReturnType<ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>["read"]>>;

/**
 * Byte stream on one socket of workerd.
 *
 * It reads with a default reader, because a BYOB reader has no benefit. With a buffer of any
 * length, workerd 1.20260426 returns at most 4,096 bytes per read, and long buffers only cost time.
 */
export class SocketStream implements SocketByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly finished: Promise<void>;
  onEvent: (event: SocketEvent) => void = () => {};
  /** Number of bytes that a read of {@link #prefetch} has received, and no `read` has taken. */
  unread = 0;
  readonly #socket: WorkerSocket;
  readonly #guard = new Guard({ end: (error) => this.destroy(error) });
  readonly #source: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  readonly #sink: WritableStreamDefaultWriter<Uint8Array>;
  #resolveFinished: () => void = () => {};
  /** Read that {@link #prefetch} has started. The next `read` call returns its result. */
  #prefetched: Promise<ReadResult> | undefined;
  #rejectWrite: ((error: VortexError) => void) | undefined;
  #reading = false;
  #readEnded = false;
  #writeEnded = false;
  #cancelled = false;
  #socketClosed = false;
  #failure: VortexError | undefined;

  constructor(socket: WorkerSocket) {
    this.#socket = socket;
    this.#source = socket.readable.getReader();
    this.#sink = socket.writable.getWriter();
    this.finished = new Promise((resolve) => {
      this.#resolveFinished = resolve;
    });
    const onSocketClosed = (): void => {
      this.#socketClosed = true;
      this.onEvent("failed");
    };
    const onClosed = this.#guard.wrap(onSocketClosed);
    socket.closed.then(onClosed, onClosed);
    // The calls report these failures too.
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

  send(last: Uint8Array): Promise<void> {
    return this.#write(last);
  }

  /** Starts a read, by which the end of an idle socket is seen. */
  park(): void {
    this.#prefetch();
  }

  unpark(): void {}

  async drain(grace: number): Promise<void> {
    if (!this.#writeEnded || this.#failure !== undefined || grace === 0) return;
    this.#prefetch();
    await new Promise<void>((resolve) => {
      const timer = this.#guard.clock.setTimer(resolve, grace);
      void this.finished.then(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /**
   * Ends both directions at once; pending calls fail with `error`. The peer sees a reset if it has
   * sent bytes that are unread, otherwise the end of the stream.
   */
  destroy(error: VortexError): void {
    this.#fail(error);
    // Not the writer's abort(): a socket with an aborted writer stays open until the request that
    // opened it ends. close() waits for pending operations, so the pending read is cancelled.
    this.#source.cancel(error).catch(() => {});
    this.#socket.close().catch(() => {});
  }

  /** Starts a read if none is pending: the peer's end is seen only by a read. */
  #prefetch(): void {
    if (this.#reading || this.#readEnded || this.#cancelled || this.#prefetched !== undefined)
      return;
    const reading = this.#source.read();
    this.#prefetched = reading;
    reading.then(
      this.#guard.wrap(({ done, value }: ReadResult) => {
        if (this.#prefetched !== reading) return;
        if (done) return this.#onEnd();
        this.unread += value.length;
        this.onEvent("received");
      }),
      this.#guard.wrap((error: unknown) => {
        if (this.#prefetched === reading && !this.#cancelled) this.#fail(streamError(error));
      }),
    );
  }

  async #read(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    for (;;) {
      if (this.#cancelled) throw cancelledHere();
      if (this.#readEnded) return undefined;
      if (this.#failure !== undefined) throw this.#failure;
      const { done, value } = await this.#next();
      if (done) this.#onEnd();
      else this.onEvent("received");
      if (done) continue;
      if (value.length > 0 && !this.#cancelled && this.#failure === undefined) return value;
    }
  }

  async #next(): Promise<ReadResult> {
    const pending = this.#prefetched ?? this.#source.read();
    this.#prefetched = undefined;
    this.unread = 0;
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
    // workerd reports a reset as an end. Unlike an end, a reset also closes the socket. After this
    // side has ended its direction, the two cannot be distinguished.
    if (this.#socketClosed && !this.#writeEnded)
      this.#fail(new VortexError("StreamReset", "read failed: the peer reset the connection"));
    if (this.#failure !== undefined || this.#cancelled) return;
    this.#readEnded = true;
    this.onEvent("ended");
    if (!this.#writeEnded) return;
    // Otherwise the file descriptor stays open until garbage collection.
    this.#socket.close().catch(() => {});
    this.#resolveFinished();
  }

  #cancel(): void {
    if (this.#cancelled || this.#readEnded) return;
    this.#cancelled = true;
    // TCP cannot cancel one direction. After this side's end, closing ends both. Before it,
    // received bytes stay unread, which blocks the peer.
    if (this.#writeEnded) this.destroy(cancelledHere());
    else this.#source.cancel().catch(() => {});
  }

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#writeEnded) throw endedHere();
    if (this.#failure !== undefined) throw this.#failure;
    if (chunk.length === 0) return;
    await new Promise<void>((resolve, reject) => {
      // The end of the stream also ends this wait. workerd itself would wait until the peer has
      // read.
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
    // The socket is not closed here: bytes may still be in workerd's buffers.
    if (this.#readEnded || this.#cancelled) this.#resolveFinished();
  }

  #abortWriting(): void {
    if (this.#writeEnded && this.#failure === undefined) return;
    this.#writeEnded = true;
    this.destroy(new VortexError("Closed", "stream aborted on this side"));
  }

  /**
   * Records the first failure of the stream, and returns it. All later calls of the reader and
   * writer fail with this error.
   */
  #fail(error: VortexError): VortexError {
    if (this.#failure === undefined) this.onEvent("failed");
    this.#failure ??= error;
    this.#rejectWrite?.(this.#failure);
    this.#resolveFinished();
    return this.#failure;
  }
}

/**
 * Converts an error of a workerd stream. The message `Network connection lost.` becomes
 * `StreamReset`, because it means a reset or a closed socket. Other errors become `ConnectionLost`.
 */
function streamError(error: unknown): VortexError {
  const reset = error instanceof Error && error.message.includes("Network connection lost");
  return VortexError.from(error, reset ? "StreamReset" : "ConnectionLost", "connection failed");
}

function cancelledHere(): VortexError {
  return new VortexError("Closed", "stream cancelled on this side");
}

function endedHere(): VortexError {
  return new VortexError("Closed", "stream ended on this side");
}

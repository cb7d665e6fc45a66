import { VortexError } from "../../src/errors.ts";
import type { Clock, Timer } from "../../src/runtime.ts";
import {
  type ByteReader,
  type ByteStream,
  type ByteWriter,
  StreamCode,
} from "../../src/transport/transport.ts";
import type { QuicheConnection } from "./connection.ts";
import { streamError } from "./errors.ts";
import type { Quiche } from "./native.ts";

/**
 * Receive buffer shared by all reads that provide no buffer. Received bytes are then copied to
 * memory of their exact length.
 */
const SCRATCH_BUFFER = new Uint8Array(64 * 1024);
/**
 * Maximum number of buffered bytes for which a write resolves at once. So small writes and the FIN
 * can share a packet.
 */
const MAX_WRITE_AHEAD_BYTES = 4096;
/**
 * Time in ms for which {@link QuicheStream} holds the last written byte back, so that the FIN can
 * share a packet with it.
 */
const HOLD_BACK_MS = 5;

const NO_BYTES = new Uint8Array(0);

/** Functions that settle the promise of a pending read or write. */
interface PendingCall<T> {
  resolve(value: T): void;
  reject(error: VortexError): void;
}

/**
 * Bidirectional stream of a quiche connection.
 *
 * The class never sends a FIN alone while earlier bytes are in flight. Once all bytes of a stream
 * are acknowledged, quiche 0.18 considers it complete (`SendBuf::is_complete`). After that, quiche
 * neither sends a queued FIN nor retransmits a lost FIN.
 *
 * So the last written byte is held back until more data or the FIN can be sent with it. After
 * {@link HOLD_BACK_MS} the byte is sent alone.
 */
export class QuicheStream implements ByteStream {
  readonly id: number;
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #connection: QuicheConnection;
  readonly #quiche: Quiche;
  readonly #clock: Clock;
  /** Functions that settle the pending read; undefined if no read is pending. */
  #pendingRead: PendingCall<Uint8Array<ArrayBuffer> | undefined> | undefined;
  /**
   * Buffer of the caller that the pending read fills. If undefined, the read returns newly
   * allocated memory.
   */
  #into: Uint8Array<ArrayBuffer> | undefined;
  /**
   * Received chunks that can still be read after the peer has closed the connection without an
   * error. Undefined otherwise.
   */
  #bufferedChunks: Uint8Array<ArrayBuffer>[] | undefined;
  #readEnd: "open" | "ended" | VortexError = "open";
  /** Chunks that the application has written and that are not yet passed to quiche. */
  #unsentChunks: Uint8Array[] = [];
  #unsentBytes = 0;
  /** Functions that settle the pending write; undefined if no write is pending. */
  #pendingWrite: PendingCall<void> | undefined;
  #writeEnd: "open" | "ending" | "ended" | VortexError = "open";
  /**
   * True if the held-back last byte was sent alone, since neither more data nor the FIN followed in
   * time.
   */
  #lastByteSent = false;
  #releaseTimer: Timer | undefined;
  /**
   * True if either side reset or stopped a direction of this stream. Then the connection must help
   * quiche to free the stream.
   */
  #discarded = false;

  constructor(id: number, connection: QuicheConnection, quiche: Quiche, clock: Clock) {
    this.id = id;
    this.#connection = connection;
    this.#quiche = quiche;
    this.#clock = clock;
    this.reader = {
      read: (into) => this.#read(into),
      cancel: (code = StreamCode.Cancelled) => this.#cancel(code),
    };
    this.writer = {
      write: (chunk) => this.#write(chunk),
      end: (last) => this.#endWriting(last),
      abort: (code = StreamCode.Cancelled) => this.#abort(code),
    };
  }

  /**
   * True once the application has ended the sending direction. Its bytes must then still be
   * delivered to the peer.
   */
  get writeEnded(): boolean {
    return this.#writeEnd === "ending" || this.#writeEnd === "ended";
  }

  // --- called by the connection ------------------------------------------------------------------

  /** Settles the pending read if quiche has data, a FIN or a reset for this stream. */
  onReadable(): void {
    const waiting = this.#pendingRead;
    if (waiting === undefined) return;
    try {
      const chunk = this.#receive(this.#into);
      if (chunk === null) return;
      this.#stopReading();
      waiting.resolve(chunk);
    } catch (error) {
      this.#stopReading();
      waiting.reject(error as VortexError);
    }
  }

  /** Ends the pending read after a FIN that quiche did not report as readable. */
  onFinished(): void {
    const waiting = this.#pendingRead;
    if (waiting === undefined) return;
    this.#stopReading();
    this.#endReading("ended");
    waiting.resolve(undefined);
  }

  /**
   * Passes pending bytes to quiche, at most `room` bytes. Returns the number of bytes that quiche
   * accepted.
   */
  onWritable(room: number): number {
    let left = room;
    try {
      while (left > 0) {
        const [chunk] = this.#unsentChunks;
        // All bytes may go together with the FIN; otherwise all except the last.
        const ready =
          this.#unsentBytes - (this.#writeEnd === "ending" || this.#lastByteSent ? 0 : 1);
        if (chunk === undefined || ready <= 0) break;
        const length = Math.min(chunk.length, ready, left);
        const last = this.#writeEnd === "ending" && length === this.#unsentBytes;
        const taken =
          this.#connection.native.streamSend(this.id, chunk.subarray(0, length), last) ?? 0;
        this.#unsentBytes -= taken;
        left -= taken;
        if (taken === chunk.length) this.#unsentChunks.shift();
        else this.#unsentChunks[0] = chunk.subarray(taken);
        if (last && taken === length) this.#onEndSent();
        if (taken < length) break;
      }
    } catch (error) {
      this.stopWriting(error);
      return room - left;
    }
    if (this.#unsentBytes <= 1) this.#onDrained();
    return room - left;
  }

  /**
   * Fails the sending direction after the peer sent STOP_SENDING or quiche reported an error.
   *
   * @param cause exception of quiche's binding
   */
  stopWriting(cause: unknown): void {
    this.#failWriting(streamError(cause, "the peer stopped reading", this.#connection.endError));
    this.#discarded = true;
    this.#forgetIfEnded();
  }

  /**
   * Fails both directions of the stream with `error` because the connection has ended.
   *
   * @param inOrder true if the peer closed the connection without an error. Then a stream whose
   * data arrived up to the FIN can still be read to its end.
   */
  fail(error: VortexError, inOrder: boolean): void {
    if (this.#readEnd === "open") {
      this.#bufferedChunks = inOrder ? this.#receiveBuffered() : undefined;
      if (this.#bufferedChunks === undefined) this.#readEnd = error;
    }
    const [waiting, into] = [this.#pendingRead, this.#into];
    this.#pendingRead = undefined;
    if (this.#bufferedChunks === undefined) waiting?.reject(error);
    else waiting?.resolve(this.#takeBuffered(this.#bufferedChunks, into));
    this.#failWriting(error);
  }

  // --- reading -----------------------------------------------------------------------------------

  async #read(
    into: Uint8Array<ArrayBuffer> | undefined,
  ): Promise<Uint8Array<ArrayBuffer> | undefined> {
    if (this.#readEnd === "ended") return undefined;
    if (this.#readEnd !== "open") throw this.#readEnd;
    if (this.#bufferedChunks !== undefined) return this.#takeBuffered(this.#bufferedChunks, into);
    const chunk = this.#receive(into);
    if (chunk !== null) return chunk;
    if (this.#connection.native.streamFinished(this.id)) {
      this.#endReading("ended");
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.#pendingRead = { resolve, reject };
      this.#into = into;
      this.#connection.setReading(this.id, true);
    });
  }

  /**
   * Reads the next chunk from quiche. Returns undefined at the end of the stream, and null if no
   * data is available yet.
   *
   * @param into buffer to fill; undefined to return newly allocated memory
   */
  #receive(into: Uint8Array<ArrayBuffer> | undefined): Uint8Array<ArrayBuffer> | undefined | null {
    const room = into ?? SCRATCH_BUFFER;
    let received: [number, boolean] | null;
    try {
      received = this.#connection.native.streamRecv(this.id, room);
    } catch (cause) {
      const error = streamError(cause, "the peer aborted the stream", this.#connection.endError);
      this.#discarded = true;
      this.#endReading(error);
      throw error;
    }
    if (received === null) return null;
    const [length, fin] = received;
    // Without the credit a blocked sender would never continue.
    this.#connection.onRead(length);
    if (fin) this.#endReading("ended");
    if (length === 0) return fin ? undefined : null;
    return into === undefined ? SCRATCH_BUFFER.slice(0, length) : into.subarray(0, length);
  }

  /**
   * Reads all data that quiche has buffered for this stream. Returns undefined if the FIN has not
   * arrived or the stream was reset.
   */
  #receiveBuffered(): Uint8Array<ArrayBuffer>[] | undefined {
    const { native } = this.#connection;
    const rest: Uint8Array<ArrayBuffer>[] = [];
    try {
      for (;;) {
        const received = native.streamRecv(this.id, SCRATCH_BUFFER);
        if (received === null) return native.streamFinished(this.id) ? rest : undefined;
        const [length, fin] = received;
        if (length > 0) rest.push(SCRATCH_BUFFER.slice(0, length));
        if (fin) return rest;
      }
    } catch {
      // The peer reset the stream.
      return undefined;
    }
  }

  /**
   * Removes and returns the next chunk of `rest`. Returns undefined if `rest` is empty, and ends
   * the receiving direction.
   *
   * @param into buffer to copy the chunk to, up to its length; undefined to return the chunk itself
   */
  #takeBuffered(
    rest: Uint8Array<ArrayBuffer>[],
    into: Uint8Array<ArrayBuffer> | undefined,
  ): Uint8Array<ArrayBuffer> | undefined {
    const chunk = rest.shift();
    if (chunk === undefined) {
      this.#endReading("ended");
      return undefined;
    }
    if (into === undefined) return chunk;
    into.set(chunk.subarray(0, into.length));
    if (chunk.length > into.length) rest.unshift(chunk.subarray(into.length));
    return into.subarray(0, Math.min(chunk.length, into.length));
  }

  #endReading(how: "ended" | VortexError): void {
    this.#bufferedChunks = undefined;
    this.#readEnd = how;
    this.#forgetIfEnded();
  }

  #cancel(code: number): void {
    if (this.#readEnd !== "open") return;
    const error = new VortexError("Closed", "the stream was cancelled on this side");
    const waiting = this.#pendingRead;
    this.#stopReading();
    waiting?.reject(error);
    this.#discarded = true;
    this.#shutdown(this.#quiche.Shutdown.Read, code);
    this.#endReading(error);
  }

  #stopReading(): void {
    this.#pendingRead = undefined;
    this.#into = undefined;
    this.#connection.setReading(this.id, false);
  }

  // --- writing -----------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.writeEnded) throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#writeEnd instanceof VortexError) throw this.#writeEnd;
    if (chunk.length === 0) return this.#throwIfStopped();
    this.#unsentChunks.push(chunk);
    this.#unsentBytes += chunk.length;
    await this.#passPending();
  }

  async #endWriting(last: Uint8Array = NO_BYTES): Promise<void> {
    if (this.writeEnded && last.length === 0) return;
    if (this.writeEnded) throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#writeEnd instanceof VortexError) throw this.#writeEnd;
    this.#writeEnd = "ending";
    if (last.length > 0) this.#unsentChunks.push(last);
    this.#unsentBytes += last.length;
    if (this.#unsentBytes > 0) {
      await this.#passPending();
    } else if (this.#lastByteSent) {
      // The last byte is in flight, and the FIN has to wait for its arrival: a few round trips
      // suffice.
      const rtt = this.#connection.native.pathStats()[0]?.rtt ?? 0;
      this.#releaseTimer = this.#clock.setTimer(() => this.#sendEnd(), 20 + 3 * rtt);
    } else {
      this.#sendEnd();
    }
  }

  /**
   * Throws if the peer has sent STOP_SENDING for this stream. Used when there is nothing to send,
   * as quiche then does not report STOP_SENDING by itself.
   */
  #throwIfStopped(): void {
    try {
      this.#connection.native.streamCapacity(this.id);
    } catch (error) {
      this.stopWriting(error);
    }
    if (this.#writeEnd instanceof VortexError) throw this.#writeEnd;
  }

  /**
   * Schedules the transfer of pending bytes to quiche. Resolves at once if at most
   * {@link MAX_WRITE_AHEAD_BYTES} are pending. Otherwise resolves when quiche has accepted all
   * except the held-back last byte.
   */
  async #passPending(): Promise<void> {
    this.#holdLastByte();
    this.#connection.setWriting(this.id, true);
    if (this.#unsentBytes <= MAX_WRITE_AHEAD_BYTES) return;
    await new Promise<void>((resolve, reject) => {
      this.#pendingWrite = { resolve, reject };
    });
  }

  /** Sends a FIN without data, if the application has ended the sending direction. */
  #sendEnd(): void {
    if (this.#writeEnd !== "ending") return;
    try {
      this.#connection.native.streamSend(this.id, NO_BYTES, true);
    } catch (error) {
      this.stopWriting(error);
      return;
    }
    this.#onEndSent();
    this.#connection.schedule();
  }

  #onEndSent(): void {
    this.#writeEnd = "ended";
    this.#connection.setWriting(this.id, false);
    this.#forgetIfEnded();
  }

  /**
   * Resolves the pending write. If the application writes nothing more, sends the held-back last
   * byte after {@link HOLD_BACK_MS}.
   */
  #onDrained(): void {
    this.#connection.setWriting(this.id, false);
    this.#pendingWrite?.resolve();
    this.#pendingWrite = undefined;
    if (this.#writeEnd !== "open" || this.#unsentBytes === 0) return;
    this.#releaseTimer ??= this.#clock.setTimer(() => {
      this.#releaseTimer = undefined;
      if (this.#writeEnd !== "open" || this.#unsentBytes === 0) return;
      this.#lastByteSent = true;
      this.#connection.setWriting(this.id, true);
    }, HOLD_BACK_MS);
  }

  /**
   * Stops the timer that would send the held-back last byte alone, because more data or the FIN
   * follows.
   */
  #holdLastByte(): void {
    this.#releaseTimer?.cancel();
    this.#releaseTimer = undefined;
    this.#lastByteSent = false;
  }

  #abort(code: number): void {
    if (this.#writeEnd === "ended" || this.#writeEnd instanceof VortexError) return;
    this.#failWriting(new VortexError("Closed", "the stream was aborted on this side"));
    this.#discarded = true;
    this.#shutdown(this.#quiche.Shutdown.Write, code);
    this.#forgetIfEnded();
  }

  #failWriting(error: VortexError): void {
    if (this.#writeEnd === "open" || this.#writeEnd === "ending") this.#writeEnd = error;
    this.#releaseTimer?.cancel();
    this.#connection.setWriting(this.id, false);
    this.#unsentChunks = [];
    this.#unsentBytes = 0;
    this.#pendingWrite?.reject(error);
    this.#pendingWrite = undefined;
  }

  // --- both --------------------------------------------------------------------------------------

  #shutdown(direction: number, code: number): void {
    try {
      this.#connection.native.streamShutdown(this.id, direction, code);
    } catch {
      // quiche has already freed the stream.
    }
    this.#connection.schedule();
  }

  #forgetIfEnded(): void {
    const open =
      this.#readEnd === "open" || this.#writeEnd === "open" || this.#writeEnd === "ending";
    if (!open) this.#connection.forget(this.id, this.#discarded);
  }
}

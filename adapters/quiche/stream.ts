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

/** Receive buffer for reads without `into`: memory is allocated only for the received length. */
const SCRATCH_BUFFER = new Uint8Array(64 * 1024);
/** Bytes buffered without blocking the writer, so that small writes and the FIN share a packet. */
const MAX_WRITE_AHEAD_BYTES = 4096;
/** Time for which the last byte is held back, in ms; see {@link QuicheStream}. */
const HOLD_BACK_MS = 5;

const NO_BYTES = new Uint8Array(0);

/** Callbacks of a pending promise. */
interface PendingCall<T> {
  resolve(value: T): void;
  reject(error: VortexError): void;
}

/**
 * Bidirectional stream of a quiche connection.
 *
 * A FIN is never sent alone while earlier bytes are in flight. quiche 0.18 considers a stream
 * complete once all its bytes are acknowledged (`SendBuf::is_complete`). It then neither sends a
 * FIN that is still queued nor retransmits a lost one. So the last byte is held back until the next
 * write, the end of the stream, or a few ms later.
 */
export class QuicheStream implements ByteStream {
  readonly id: number;
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #connection: QuicheConnection;
  readonly #quiche: Quiche;
  readonly #clock: Clock;
  /** The pending read. */
  #pendingRead: PendingCall<Uint8Array | undefined> | undefined;
  /** Caller's memory for the pending read. */
  #into: Uint8Array | undefined;
  /** Chunks still readable after the connection has ended. */
  #bufferedChunks: Uint8Array[] | undefined;
  #readEnd: "open" | "ended" | VortexError = "open";
  /** Chunks written by the application and not yet passed to quiche. */
  #unsentChunks: Uint8Array[] = [];
  #unsentBytes = 0;
  /** The pending write. */
  #pendingWrite: PendingCall<void> | undefined;
  #writeEnd: "open" | "ending" | "ended" | VortexError = "open";
  /** True if the held-back last byte was sent without the FIN. */
  #lastByteSent = false;
  #releaseTimer: Timer | undefined;
  /**
   * True if either side reset or stopped a direction: quiche then needs help to free the stream.
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

  /** True once this side has ended writing, so that its bytes must still be delivered. */
  get writeEnded(): boolean {
    return this.#writeEnd === "ending" || this.#writeEnd === "ended";
  }

  // --- called by the connection ------------------------------------------------------------------

  /** Completes the pending read if quiche has data, a FIN or a reset for it. */
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

  /** Ends the pending read at a FIN that quiche did not report as readable. */
  onFinished(): void {
    const waiting = this.#pendingRead;
    if (waiting === undefined) return;
    this.#stopReading();
    this.#endReading("ended");
    waiting.resolve(undefined);
  }

  /** Passes up to `room` pending bytes to quiche. Returns the number of bytes taken. */
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

  /** Fails the writer, after STOP_SENDING from the peer or an error of quiche. */
  stopWriting(cause: unknown): void {
    this.#failWriting(streamError(cause, "the peer stopped reading", this.#connection.endError));
    this.#discarded = true;
    this.#forgetIfEnded();
  }

  /**
   * Fails the stream, as the connection has ended.
   *
   * @param inOrder the peer closed without an error: a stream that arrived completely before stays
   * readable, however slow the reader
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

  async #read(into: Uint8Array | undefined): Promise<Uint8Array | undefined> {
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

  /** Reads from quiche: a chunk, undefined at the end, null when no data is available yet. */
  #receive(into: Uint8Array | undefined): Uint8Array | undefined | null {
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

  /** Reads all data that quiche has buffered; undefined unless it is complete up to the FIN. */
  #receiveBuffered(): Uint8Array[] | undefined {
    const { native } = this.#connection;
    const rest: Uint8Array[] = [];
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

  /** Returns the next chunk of `rest`, or undefined at the end. */
  #takeBuffered(rest: Uint8Array[], into: Uint8Array | undefined): Uint8Array | undefined {
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
   * Throws if the peer has stopped the stream. quiche does not report that while there is nothing
   * to send.
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
   * Passes pending bytes to quiche, and waits while more than {@link MAX_WRITE_AHEAD_BYTES} are
   * pending.
   */
  async #passPending(): Promise<void> {
    this.#holdLastByte();
    this.#connection.setWriting(this.id, true);
    if (this.#unsentBytes <= MAX_WRITE_AHEAD_BYTES) return;
    await new Promise<void>((resolve, reject) => {
      this.#pendingWrite = { resolve, reject };
    });
  }

  /** Sends a FIN without data. */
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

  /** Resolves the pending write. If nothing follows, the held-back byte is sent after a few ms. */
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

  /** Keeps holding the last byte back, since more data or the FIN follows. */
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

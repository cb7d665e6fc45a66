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

/** Where bytes are read to before memory is taken for them, for readers that bring none. */
const SCRATCH = new Uint8Array(64 * 1024);
/** Bytes that a writer may leave here without waiting, so that small writes and the end share a packet. */
const WRITE_AHEAD = 4096;
/** Milliseconds for which the last byte is kept back, see {@link QuicheStream}. */
const HOLD_BACK = 5;

const NO_BYTES = new Uint8Array(0);

interface Waiting<T> {
  resolve(value: T): void;
  reject(error: VortexError): void;
}

/**
 * One bidirectional stream of a quiche connection.
 *
 * The end of a direction never goes out alone while bytes before it are under way: quiche 0.18 takes a stream for
 * complete once all its bytes are acknowledged (`SendBuf::is_complete`), and then neither sends an end that is still
 * waiting nor repeats one that was lost. So the last byte is kept back until the next write, or the end, or for a few
 * milliseconds.
 */
export class QuicheStream implements ByteStream {
  readonly id: number;
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #connection: QuicheConnection;
  readonly #quiche: Quiche;
  readonly #clock: Clock;
  #reading: Waiting<Uint8Array | undefined> | undefined;
  /** The reader's own memory for the chunk that it waits for. */
  #into: Uint8Array | undefined;
  /** What is left to read after the connection has ended. */
  #rest: Uint8Array[] | undefined;
  #readEnd: "open" | "ended" | VortexError = "open";
  /** Written by the application, not handed to quiche yet. */
  #pending: Uint8Array[] = [];
  #pendingLength = 0;
  #writing: Waiting<void> | undefined;
  #writeEnd: "open" | "ending" | "ended" | VortexError = "open";
  /** The last byte went out without the end behind it. */
  #released = false;
  #releaseTimer: Timer | undefined;
  /** Whether one side gave a direction up, so that quiche must be watched for the end of the stream. */
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

  /** Whether this side has ended its direction, so that its bytes are owed to the other. */
  get writeEnded(): boolean {
    return this.#writeEnd === "ending" || this.#writeEnd === "ended";
  }

  // --- called by the connection -----------------------------------------------------------------------------------

  /** Bytes, an end or a reset have come. */
  onReadable(): void {
    const waiting = this.#reading;
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

  /** The end has come and all bytes before it have been read, though quiche did not say so. */
  onFinished(): void {
    const waiting = this.#reading;
    if (waiting === undefined) return;
    this.#stopReading();
    this.#endReading("ended");
    waiting.resolve(undefined);
  }

  /** Hands quiche what is pending, up to `room` bytes, and returns how many bytes that were. */
  onWritable(room: number): number {
    let left = room;
    try {
      while (left > 0) {
        const [chunk] = this.#pending;
        // Bytes that may go: all of them with the end behind them, or all but the last.
        const ready = this.#pendingLength - (this.#writeEnd === "ending" || this.#released ? 0 : 1);
        if (chunk === undefined || ready <= 0) break;
        const length = Math.min(chunk.length, ready, left);
        const last = this.#writeEnd === "ending" && length === this.#pendingLength;
        const taken =
          this.#connection.native.streamSend(this.id, chunk.subarray(0, length), last) ?? 0;
        this.#pendingLength -= taken;
        left -= taken;
        if (taken === chunk.length) this.#pending.shift();
        else this.#pending[0] = chunk.subarray(taken);
        if (last && taken === length) this.#wroteEnd();
        if (taken < length) break;
      }
    } catch (error) {
      this.stopWriting(error);
      return room - left;
    }
    if (this.#pendingLength <= 1) this.#onDrained();
    return room - left;
  }

  /** The peer does not want any more, or quiche cannot go on. */
  stopWriting(cause: unknown): void {
    this.#failWriting(streamError(cause, "the peer stopped reading", this.#connection.endError));
    this.#discarded = true;
    this.#forgetIfOver();
  }

  /**
   * The connection has ended.
   *
   * @param inOrder by the peer, in good order: what it sent in whole before that can still be read, however slow the reader is
   */
  fail(error: VortexError, inOrder: boolean): void {
    if (this.#readEnd === "open") {
      this.#rest = inOrder ? this.#receiveRest() : undefined;
      if (this.#rest === undefined) this.#readEnd = error;
    }
    const [waiting, into] = [this.#reading, this.#into];
    this.#reading = undefined;
    if (this.#rest === undefined) waiting?.reject(error);
    else waiting?.resolve(this.#takeRest(this.#rest, into));
    this.#failWriting(error);
  }

  // --- reading ----------------------------------------------------------------------------------------------------

  async #read(into: Uint8Array | undefined): Promise<Uint8Array | undefined> {
    if (this.#readEnd === "ended") return undefined;
    if (this.#readEnd !== "open") throw this.#readEnd;
    if (this.#rest !== undefined) return this.#takeRest(this.#rest, into);
    const chunk = this.#receive(into);
    if (chunk !== null) return chunk;
    if (this.#connection.native.streamFinished(this.id)) {
      this.#endReading("ended");
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.#reading = { resolve, reject };
      this.#into = into;
      this.#connection.setReading(this.id, true);
    });
  }

  /** What quiche holds: a chunk, undefined at the end, null when there is nothing yet. */
  #receive(into: Uint8Array | undefined): Uint8Array | undefined | null {
    const room = into ?? SCRATCH;
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
    // The window may have to be opened for the sender, who would wait for ever otherwise.
    this.#connection.onRead(length);
    if (fin) this.#endReading("ended");
    if (length === 0) return fin ? undefined : null;
    return into === undefined ? SCRATCH.slice(0, length) : into.subarray(0, length);
  }

  /** All that quiche holds, if the end of the stream is behind it. */
  #receiveRest(): Uint8Array[] | undefined {
    const { native } = this.#connection;
    const rest: Uint8Array[] = [];
    try {
      for (;;) {
        const received = native.streamRecv(this.id, SCRATCH);
        if (received === null) return native.streamFinished(this.id) ? rest : undefined;
        const [length, fin] = received;
        if (length > 0) rest.push(SCRATCH.slice(0, length));
        if (fin) return rest;
      }
    } catch {
      // The peer gave it up.
      return undefined;
    }
  }

  #takeRest(rest: Uint8Array[], into: Uint8Array | undefined): Uint8Array | undefined {
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
    this.#rest = undefined;
    this.#readEnd = how;
    this.#forgetIfOver();
  }

  #cancel(code: number): void {
    if (this.#readEnd !== "open") return;
    const error = new VortexError("Closed", "the stream was cancelled on this side");
    const waiting = this.#reading;
    this.#stopReading();
    waiting?.reject(error);
    this.#discarded = true;
    this.#shutdown(this.#quiche.Shutdown.Read, code);
    this.#endReading(error);
  }

  #stopReading(): void {
    this.#reading = undefined;
    this.#into = undefined;
    this.#connection.setReading(this.id, false);
  }

  // --- writing ----------------------------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.writeEnded) throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#writeEnd instanceof VortexError) throw this.#writeEnd;
    if (chunk.length === 0) return this.#requireWanted();
    this.#pending.push(chunk);
    this.#pendingLength += chunk.length;
    await this.#handOver();
  }

  async #endWriting(last: Uint8Array = NO_BYTES): Promise<void> {
    if (this.writeEnded && last.length === 0) return;
    if (this.writeEnded) throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#writeEnd instanceof VortexError) throw this.#writeEnd;
    this.#writeEnd = "ending";
    if (last.length > 0) this.#pending.push(last);
    this.#pendingLength += last.length;
    if (this.#pendingLength > 0) {
      await this.#handOver();
    } else if (this.#released) {
      // The last byte is under way, and the end has to wait until it has arrived; a few round trips are enough.
      const rtt = this.#connection.native.pathStats()[0]?.rtt ?? 0;
      this.#releaseTimer = this.#clock.setTimer(() => this.#sendEnd(), 20 + 3 * rtt);
    } else {
      this.#sendEnd();
    }
  }

  /** quiche does not tell that the peer has stopped a stream on which nothing is to be sent. */
  #requireWanted(): void {
    try {
      this.#connection.native.streamCapacity(this.id);
    } catch (error) {
      this.stopWriting(error);
    }
    if (this.#writeEnd instanceof VortexError) throw this.#writeEnd;
  }

  /** Has quiche take what is pending, and waits for that when it is much. */
  async #handOver(): Promise<void> {
    this.#hold();
    this.#connection.setWriting(this.id, true);
    if (this.#pendingLength <= WRITE_AHEAD) return;
    await new Promise<void>((resolve, reject) => {
      this.#writing = { resolve, reject };
    });
  }

  /** Sends the end by itself. */
  #sendEnd(): void {
    if (this.#writeEnd !== "ending") return;
    try {
      this.#connection.native.streamSend(this.id, NO_BYTES, true);
    } catch (error) {
      this.stopWriting(error);
      return;
    }
    this.#wroteEnd();
    this.#connection.schedule();
  }

  #wroteEnd(): void {
    this.#writeEnd = "ended";
    this.#connection.setWriting(this.id, false);
    this.#forgetIfOver();
  }

  /** Nothing but the last byte is pending: the writer may go on, and the byte goes when nothing follows it. */
  #onDrained(): void {
    this.#connection.setWriting(this.id, false);
    this.#writing?.resolve();
    this.#writing = undefined;
    if (this.#writeEnd !== "open" || this.#pendingLength === 0) return;
    this.#releaseTimer ??= this.#clock.setTimer(() => {
      this.#releaseTimer = undefined;
      if (this.#writeEnd !== "open" || this.#pendingLength === 0) return;
      this.#released = true;
      this.#connection.setWriting(this.id, true);
    }, HOLD_BACK);
  }

  /** More follows the last byte, so it is no last byte. */
  #hold(): void {
    this.#releaseTimer?.cancel();
    this.#releaseTimer = undefined;
    this.#released = false;
  }

  #abort(code: number): void {
    if (this.#writeEnd === "ended" || this.#writeEnd instanceof VortexError) return;
    this.#failWriting(new VortexError("Closed", "the stream was aborted on this side"));
    this.#discarded = true;
    this.#shutdown(this.#quiche.Shutdown.Write, code);
    this.#forgetIfOver();
  }

  #failWriting(error: VortexError): void {
    if (this.#writeEnd === "open" || this.#writeEnd === "ending") this.#writeEnd = error;
    this.#releaseTimer?.cancel();
    this.#connection.setWriting(this.id, false);
    this.#pending = [];
    this.#pendingLength = 0;
    this.#writing?.reject(error);
    this.#writing = undefined;
  }

  // --- both -------------------------------------------------------------------------------------------------------

  #shutdown(direction: number, code: number): void {
    try {
      this.#connection.native.streamShutdown(this.id, direction, code);
    } catch {
      // The stream is over for quiche.
    }
    this.#connection.schedule();
  }

  #forgetIfOver(): void {
    const open =
      this.#readEnd === "open" || this.#writeEnd === "open" || this.#writeEnd === "ending";
    if (!open) this.#connection.forget(this.id, this.#discarded);
  }
}

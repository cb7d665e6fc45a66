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

/** Greatest chunk that is put together for a reader from what has gathered. */
const GATHER = 256 * 1024;
/**
 * Bytes that are handed to the runtime at a time. It copies what waits unsent at every turn of its own, so little should wait;
 * and it takes chunks as a whole, however small its room.
 */
const SLICE = 64 * 1024;
/** More than the module's generators take for a step that waits for nothing. */
const MICROTASKS = 12;

/** A reader that waits. */
interface Waiting {
  readonly into: Uint8Array | undefined;
  resolve(chunk: Uint8Array | undefined): void;
  reject(error: VortexError): void;
}

/**
 * One bidirectional stream of `node:quic`.
 *
 * The runtime takes bytes in whether anybody reads or not (Bun 1.4: `on_stream_read` reads all that has come, and so gives the
 * sender new credit), and has no means to stop that. So they are fetched as they come, which costs no more memory, and are
 * counted against a limit here. A reader gets what has gathered in one chunk; into memory of its own, since the runtime's can be
 * freed then.
 */
export class NodeQuicStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #native: NativeStream;
  readonly #connection: NodeQuicConnection;
  /** Opened before the handshake was over, so that its bytes may be refused. */
  readonly #early: boolean;
  #gathered: Uint8Array<ArrayBuffer>[] = [];
  /** Bytes of the first of them that a reader has. */
  #taken = 0;
  #held = 0;
  #reading: Waiting | undefined;
  /** The end of the other side's direction has come; there may be bytes to read before it. */
  #complete = false;
  #readFailure: VortexError | undefined;
  #writing: (() => void) | undefined;
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

  // --- called by the connection -----------------------------------------------------------------------------------

  /** The connection has ended. */
  fail(error: VortexError): void {
    if (!this.#complete) this.#failReading(error);
    this.#failWriting(error);
  }

  /** Whether this side has ended its direction, so that its bytes are owed to the other; gives the direction up if not. */
  leaveIfOpen(): boolean {
    this.#abort(StreamCode.Cancelled);
    return this.#writeEnd === "ended";
  }

  /** Wakes a writer that waits on a direction which has ended: the runtime does not tell it of STOP_SENDING. */
  look(): void {
    if (typeof this.#native.writer.desiredSize !== "number") this.#writing?.();
  }

  // --- reading ----------------------------------------------------------------------------------------------------

  /** Takes in what comes, until nothing comes any more. */
  async #receive(): Promise<void> {
    const batches = this.#native[Symbol.asyncIterator]();
    let clean = false;
    try {
      for (let seen = 0; ; seen++) {
        const next = batches.next();
        const prompt = seen > 0 && (await settlesNow(next));
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
      // "… reset by the peer with error code 7"; its text is all that an error has here.
      const [, digits] = /code (\d+)/.exec(cause instanceof Error ? cause.message : "") ?? [];
      const code = digits === undefined ? 0 : Number(digits);
      this.#failReading(
        await this.#connection.verdict("the peer aborted the stream", code, this.#early, cause),
      );
      return;
    }
    if (this.#readFailure !== undefined) return;
    if (!clean && (await this.#isCutOff())) {
      this.#failReading(await this.#connection.verdict("the stream was cut off", 0, this.#early));
      return;
    }
    this.#complete = true;
    this.#reading?.resolve(undefined);
    this.#reading = undefined;
  }

  /**
   * Whether the end is the connection's and not the stream's: to its iteration the module makes no difference between them. The
   * stream's own end comes together with the last bytes, as a rule. The end of the connection comes alone; it closes the stream
   * within the same turn of the event loop, and then the connection, see {@link NodeQuicConnection.survives}.
   */
  async #isCutOff(): Promise<boolean> {
    if (this.#connection.isGone) return true;
    if (this.#writeEnd === "open") {
      // The stream's own end leaves this direction as it is.
      await new Promise((resolve) => setImmediate(resolve));
      if (!this.#native.destroyed) return false;
    }
    return !(await this.#connection.survives());
  }

  /** False when no more is wanted. */
  #onBatch(batch: readonly Uint8Array<ArrayBuffer>[]): boolean {
    if (this.#readFailure !== undefined) return false;
    let length = 0;
    for (const chunk of batch) {
      this.#gathered.push(chunk);
      length += chunk.length;
    }
    this.#count(length);
    const waiting = this.#reading;
    if (waiting !== undefined && this.#held > 0) {
      this.#reading = undefined;
      waiting.resolve(this.#take(waiting.into));
    }
    const limit = this.#connection.exceededLimit(this.#held);
    if (limit === undefined) return true;
    this.#stopSending(StreamCode.Busy);
    const message = `the reader is slower than the peer, and ${limit} bytes are as much as is held for it (unreadLimit)`;
    this.#failReading(new VortexError("LimitExceeded", message));
    return false;
  }

  async #read(into: Uint8Array | undefined): Promise<Uint8Array | undefined> {
    if (this.#readFailure !== undefined) throw this.#readFailure;
    if (this.#held > 0) return this.#take(into);
    if (this.#complete) return undefined;
    return new Promise((resolve, reject) => {
      this.#reading = { into, resolve, reject };
    });
  }

  /** What has gathered, as one chunk: what fits in `into`, or at most {@link GATHER} bytes. */
  #take(into: Uint8Array | undefined): Uint8Array {
    const first = this.#gathered[0];
    if (into === undefined && first !== undefined && this.#gathered.length === 1) {
      this.#gathered = [];
      this.#count(-this.#held);
      const rest = first.subarray(this.#taken);
      this.#taken = 0;
      return rest;
    }
    const target = into ?? new Uint8Array(Math.min(this.#held, GATHER));
    const spent: ArrayBuffer[] = [];
    let length = 0;
    let count = 0;
    for (const chunk of this.#gathered) {
      const part = chunk.subarray(this.#taken, this.#taken + target.length - length);
      target.set(part, length);
      length += part.length;
      this.#taken += part.length;
      if (this.#taken < chunk.length) break;
      this.#taken = 0;
      count++;
      if (isWorthFreeing(chunk)) spent.push(chunk.buffer);
      if (length === target.length) break;
    }
    this.#gathered.splice(0, count);
    this.#count(-length);
    if (spent.length > 0) releaseMemory(spent);
    return target.subarray(0, length);
  }

  #count(bytes: number): void {
    this.#held += bytes;
    this.#connection.countUnread(bytes);
  }

  #cancel(code: number): void {
    if (this.#readFailure !== undefined || (this.#complete && this.#held === 0)) return;
    if (!this.#complete) this.#stopSending(code);
    this.#failReading(new VortexError("Closed", "the stream was cancelled on this side"));
  }

  #failReading(error: VortexError): void {
    if (this.#readFailure !== undefined) return;
    this.#readFailure = error;
    this.#gathered = [];
    this.#taken = 0;
    this.#count(-this.#held);
    this.#reading?.reject(error);
    this.#reading = undefined;
  }

  #stopSending(code: number): void {
    this.#native.stopSending(BigInt(code));
  }

  // --- writing ----------------------------------------------------------------------------------------------------

  async #write(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length || at === 0; at += SLICE) {
      const slice = chunk.length <= SLICE ? chunk : chunk.subarray(at, at + SLICE);
      for (;;) {
        if (this.#writeEnd === "ended")
          throw new VortexError("Closed", "the stream was ended on this side");
        if (this.#writeEnd !== "open") throw this.#writeEnd;
        if (this.#native.writer.writeSync(slice)) break;
        await this.#room();
      }
    }
  }

  /** Waits until there is room; fails the direction if there will be none. */
  async #room(): Promise<void> {
    const { writer } = this.#native;
    const drained = writer[drainable]?.();
    if (drained) {
      await new Promise<void>((resolve) => {
        this.#writing = resolve;
        drained.then(
          () => resolve(),
          () => resolve(),
        );
        this.#connection.watch(this, true);
      });
      this.#writing = undefined;
      this.#connection.watch(this, false);
    }
    if (this.#writeEnd === "open" && typeof writer.desiredSize !== "number") await this.#stopped();
  }

  /** The peer does not want any more, or the connection has ended. */
  async #stopped(): Promise<void> {
    this.#failWriting(await this.#connection.verdict("the peer stopped reading", 0, this.#early));
  }

  async #endWriting(last: Uint8Array | undefined): Promise<void> {
    if (last !== undefined) await this.#write(last);
    if (this.#writeEnd === "ended") return;
    if (this.#writeEnd !== "open") throw this.#writeEnd;
    if (this.#native.writer.endSync() < 0) {
      await this.#stopped();
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
    this.#writing?.();
  }
}

/** Whether a promise settles before the microtasks have been worked off, and so without anything from outside. */
async function settlesNow(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const settle = (): void => {
    settled = true;
  };
  promise.then(settle, settle);
  for (let turn = 0; turn < MICROTASKS && !settled; turn++) await undefined;
  return settled;
}

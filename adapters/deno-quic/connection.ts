import { setImmediate } from "node:timers";
import { abortedError, VortexError } from "../../src/errors.ts";
import type { Timer } from "../../src/runtime.ts";
import type { Address } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteStream,
  type CloseInfo,
  type Connection,
  type EarlyData,
  StreamCode,
} from "../../src/transport/transport.ts";
import type { Guard } from "../shared/guard.ts";
import { IdleClose } from "../shared/idle-close.ts";
import { closeInfo } from "../shared/quic-errors.ts";
import { earlyDataRefused, failureInfo, type Trust } from "./errors.ts";
import {
  afterFirstFlight,
  type NativeConn,
  type NativeReadable,
  type NativeStream,
} from "./native.ts";
import { DenoQuicStream, type StreamOwner } from "./stream.ts";

/** Milliseconds between the failure of a stream and word of why its connection ended, at most. */
const VERDICT = 1000;

/**
 * Milliseconds in which an answer that was ended arrives and is read. What Deno has received and nobody has read is lost when
 * the connection is closed, so this is more than a round trip.
 */
const SETTLING = 2000;

/** What a connection needs to know of where it comes from. */
export interface ConnectionOrigin {
  /** Counts and reports exceptions in event callbacks; each ends its connection. */
  readonly guard: Guard;
  readonly server: boolean;
  /** Whether the handshake is over. */
  readonly established: boolean;
  /** Whom a client expects. */
  readonly trust?: Trust;
  /** On a server: a client has sent its first request, or finished its handshake. */
  readonly onUsable?: (connection: DenoQuicConnection) => void;
  /** The handshake is over. */
  readonly onEstablished?: (connection: DenoQuicConnection) => void;
  /** On a server: whether requests are taken before the handshake is over. */
  readonly takesEarlyData?: boolean;
}

interface Taker {
  resolve(stream: ByteStream): void;
  reject(error: VortexError): void;
}

/** A connection of Deno's QUIC, on either side. */
export class DenoQuicConnection implements Connection {
  readonly protocol = "quic";
  readonly remote: Address;
  readonly ready: Promise<void>;
  readonly closed: Promise<CloseInfo>;
  /** Until the end, since it holds its endpoint and so a socket. */
  #native: NativeConn | undefined;
  readonly #origin: ConnectionOrigin;
  readonly #guard: Guard;
  readonly #owner: StreamOwner;
  readonly #streams = new Set<DenoQuicStream>();
  readonly #incoming = new AsyncQueue<ByteStream>();
  /** Who waits for a stream, first come first. */
  readonly #takers: Taker[] = [];
  /** Streams that were opened for somebody who gave up waiting: their credit is spent, so they are the next to be used. */
  #spares: DenoQuicStream[] = [];
  /** Streams that are being opened. */
  #opening = 0;
  #established: boolean;
  #earlyData: EarlyData = "none";
  /** Numbers of the streams that were opened before it was known whether early data was accepted: a refusal would show on them. */
  readonly #early = new Set<bigint>();
  #refusedEarly = false;
  /** What waits until it is known whether early data was accepted. */
  #undecided: (() => void)[] = [];
  readonly #started = performance.now();
  /** When the session for the next connection has come, by performance.now(). */
  #sessionDue = Number.NEGATIVE_INFINITY;
  /** When a stream of the peer's was last ended on this side, by performance.now(). */
  #lastEnded = Number.NEGATIVE_INFINITY;
  #closing = false;
  #onDrained: (() => void) | undefined;
  /** On a client: Deno keeps the process alive while `closed` of a connection is waited for. */
  readonly #idleClose: IdleClose | undefined;
  #end: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #resolveReady: () => void = () => {};
  #rejectReady: (error: VortexError) => void = () => {};

  constructor(native: NativeConn, remote: Address, origin: ConnectionOrigin) {
    this.#native = native;
    this.remote = remote;
    this.#origin = origin;
    this.#established = origin.established;
    this.#guard = origin.guard.of((error) => this.abort(StreamCode.Internal, "", error));
    this.#owner = {
      guard: this.#guard,
      lost: (cause) => this.#lost(cause),
      onHeard: () => this.#checkDrained(),
      onEnded: () => {
        this.#lastEnded = performance.now();
      },
      onEarlyDataRefused: (refused) => this.#onEarlyDataRefused(refused),
      onceDecided: (act) => {
        if (this.#isUndecided()) this.#undecided.push(act);
        else act();
      },
      forget: (stream) => {
        this.#streams.delete(stream);
        this.#checkIdle();
        this.#checkDrained();
      },
    };
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.ready = new Promise((resolve, reject) => {
      this.#resolveReady = resolve;
      this.#rejectReady = reject;
    });
    this.ready.catch(() => {});
    if (!origin.server)
      this.#idleClose = new IdleClose(this.#guard.clock, (error) =>
        this.abort(StreamCode.None, "", error),
      );
    native.closed.then(
      // An application's own code travels after the handshake only (RFC 9000, section 10.2.3).
      this.#guard.wrap(
        ({ closeCode: code, reason }: { readonly closeCode: number; readonly reason: string }) =>
          this.#onEnd(closeInfo({ isApp: true, code, reason, remote: true, established: true })),
      ),
      this.#guard.wrap((cause: unknown) => {
        const { server, trust } = origin;
        const early = this.#earlyData !== "none";
        this.#onEnd(failureInfo(cause, { established: this.#established, server, early, trust }));
      }),
    );
    const takesStreams = origin.server && (origin.established || origin.takesEarlyData === true);
    if (takesStreams) this.#guard.run(() => this.#acceptStreams(native));
    if (origin.established) {
      this.#resolveReady();
      this.#checkIdle();
    } else {
      this.#guard.run(() => this.#finishHandshake(native));
      if (!origin.server) {
        this.#earlyData = "pending";
        // Whether early data was accepted shows only on a stream that was opened early; it is the first to be used.
        this.#open();
      }
    }
  }

  get earlyData(): EarlyData {
    return this.#earlyData;
  }

  /** Of a session that was resumed without early data Deno does not tell. */
  get resumed(): boolean {
    return this.#earlyData === "accepted";
  }

  openStream(options: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    const { signal } = options;
    if (signal?.aborted) return Promise.reject(abortedError(signal, "opening a stream"));
    if (this.#end !== undefined) return Promise.reject(this.#end.error);
    if (this.#closing) return Promise.reject(closedHere());
    const spare = this.#spares.shift();
    if (spare !== undefined) {
      this.#checkIdle();
      return Promise.resolve(spare);
    }
    return new Promise((resolve, reject) => {
      const onAbort = this.#guard.wrap(() => {
        const at = this.#takers.indexOf(taker);
        if (at < 0 || signal === undefined) return;
        this.#takers.splice(at, 1);
        this.#checkIdle();
        reject(abortedError(signal, "opening a stream"));
      });
      const settle = (): void => signal?.removeEventListener("abort", onAbort);
      const taker: Taker = {
        resolve: (stream) => {
          settle();
          resolve(stream);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#takers.push(taker);
      this.#checkIdle();
      if (this.#opening < this.#takers.length) this.#open();
    });
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    const { grace = 5000 } = options;
    if (this.#end === undefined) {
      this.#closing = true;
      this.#incoming.end();
      this.#refuseTakers(closedHere());
      await this.#drain(grace);
      this.abort();
    }
    await this.closed;
    // The frame that tells the peer goes out in the next turn of the event loop, which a process that exits has to wait for.
    await turn();
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedHere()): void {
    if (this.#end !== undefined) return;
    const native = this.#native;
    this.#onEnd({ code, reason, remote: false, error });
    for (const stream of this.#streams) stream.fail(error);
    const end = this.#guard.wrap(() => native?.close({ closeCode: code, reason }));
    if (this.#established || this.#origin.server) end();
    else afterFirstFlight(end);
  }

  /**
   * Waits until what was written and ended has been delivered, for at most `grace` milliseconds. Deno does not tell when bytes
   * have arrived. So for a stream of this side's own it waits until the peer has ended its direction too, and for an answer
   * that was ended just now for a while, or until the peer, having all it wanted, closes the connection.
   */
  async #drain(grace: number): Promise<void> {
    const now = performance.now();
    const left = this.#origin.server ? Math.min(grace, this.#lastEnded + SETTLING - now) : grace;
    if (left <= 0) return;
    if (!this.#origin.server && !this.#owes()) {
      if (this.#sessionDue > now) await turn(Math.min(grace, this.#sessionDue - now));
      return;
    }
    await new Promise<void>((resolve) => {
      const timer = this.#guard.clock.setTimer(resolve, left);
      this.#onDrained = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  #owes(): boolean {
    return [...this.#streams].some((stream) => stream.owed);
  }

  #checkDrained(): void {
    if (this.#onDrained !== undefined && !this.#origin.server && !this.#owes()) this.#onDrained();
  }

  // --- streams ----------------------------------------------------------------------------------------------------

  #open(): void {
    const native = this.#native;
    if (native === undefined) return;
    this.#opening++;
    native.createBidirectionalStream({ waitUntilAvailable: true }).then(
      this.#guard.wrap((opened: NativeStream) => {
        this.#opening--;
        if (this.#end !== undefined || this.#refusedEarly || !this.#isNumberedOn(opened)) {
          letGo(opened);
          return;
        }
        const stream = this.#adopt(opened);
        const taker = this.#takers.shift();
        if (taker === undefined) this.#spares.push(stream);
        else taker.resolve(stream);
        this.#checkIdle();
      }),
      this.#guard.wrap(async (cause: unknown) => {
        this.#opening--;
        this.#refuseTakers(await this.#lost(cause));
      }),
    );
  }

  /**
   * Whether the stream has a number of its own. After early data was refused quinn numbers streams anew, and an early stream that
   * it frees takes the waker of the new one with its number along: a read of that one would never be answered, not at the end of
   * the connection either, and hold its socket. The number tells of the refusal at once; Deno's own word of it was seen to come
   * more than two turns later in a busy process.
   */
  #isNumberedOn({ readable }: NativeStream): boolean {
    if (this.#earlyData === "none") return true;
    const number = numberOf(readable);
    // The connection has ended, which is about to be told.
    if (number === undefined) return false;
    if (this.#early.has(number)) {
      this.#guard.run(() => this.#onEarlyDataRefused(earlyDataRefused()));
      return false;
    }
    if (this.#isUndecided()) this.#early.add(number);
    return true;
  }

  #isUndecided(): boolean {
    return this.#earlyData === "pending" && this.#end === undefined;
  }

  #adopt(native: NativeStream): DenoQuicStream {
    const stream = new DenoQuicStream(native, this.#owner);
    this.#streams.add(stream);
    return stream;
  }

  #checkIdle(): void {
    if (this.#idleClose === undefined || this.#end !== undefined) return;
    const used = this.#streams.size - this.#spares.length;
    this.#idleClose.busy = !this.#established || used > 0 || this.#takers.length > 0;
  }

  #refuseTakers(error: VortexError): void {
    for (const taker of this.#takers.splice(0)) taker.reject(error);
  }

  async #acceptStreams(native: NativeConn): Promise<void> {
    try {
      for await (const stream of native.incomingBidirectionalStreams) {
        // Unanswered it fails with the connection, and may be asked for again; refused it would look like an answer.
        if (this.#closing || this.#end !== undefined) return;
        this.#incoming.push(this.#adopt(stream));
        this.#origin.onUsable?.(this);
      }
    } catch {
      // The connection has ended; `closed` tells why.
    }
  }

  // --- the handshake and the end ------------------------------------------------------------------------------------

  async #finishHandshake(native: NativeConn): Promise<void> {
    await native.handshake;
    // It resolves also when the handshake has failed, or early data was refused. Both are known by the next turn.
    await turn();
    if (this.#end !== undefined || this.#refusedEarly) return;
    this.#established = true;
    if (this.#earlyData === "pending") {
      this.#earlyData = this.#early.size > 0 ? "accepted" : "refused";
      this.#decide();
      // A session comes a round trip after the handshake, which took about one.
      const now = performance.now();
      this.#sessionDue = now + 2 * (now - this.#started) + 10;
    }
    this.#resolveReady();
    this.#checkIdle();
    this.#origin.onEstablished?.(this);
    if (!this.#origin.server || this.#native === undefined) return;
    this.#origin.onUsable?.(this);
    if (this.#origin.takesEarlyData !== true) this.#guard.run(() => this.#acceptStreams(native));
  }

  /** The connection ends with its early data, for what quinn would do to streams that are opened after it, see {@link #isNumberedOn}. */
  async #onEarlyDataRefused(refused: VortexError): Promise<VortexError> {
    this.#refusedEarly = true;
    // quinn says it also when the connection has ended before its handshake.
    await turn();
    if (this.#end !== undefined) return this.#end.error;
    this.#established = true;
    this.#earlyData = "refused";
    this.abort(StreamCode.None, "", refused);
    return refused;
  }

  #decide(): void {
    for (const act of this.#undecided.splice(0)) act();
  }

  async #lost(cause: unknown): Promise<VortexError> {
    if (this.#end === undefined) {
      let timer: Timer | undefined;
      const patience = new Promise<void>((resolve) => {
        timer = this.#guard.clock.setTimer(resolve, VERDICT);
      });
      await Promise.race([this.closed, patience]);
      timer?.cancel();
    }
    return this.#end?.error ?? VortexError.from(cause, "ConnectionLost", "the stream failed");
  }

  #onEnd(info: CloseInfo): void {
    if (this.#end !== undefined) return;
    this.#end = info;
    this.#closing = true;
    if (this.#idleClose !== undefined) this.#idleClose.busy = true;
    this.#native = undefined;
    this.#spares = [];
    this.#rejectReady(info.error);
    this.#refuseTakers(info.error);
    this.#incoming.end();
    this.#decide();
    this.#onDrained?.();
    this.#resolveClosed(info);
  }
}

function closedHere(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}

function numberOf(readable: NativeReadable): bigint | undefined {
  try {
    return readable.id;
  } catch {
    return undefined;
  }
}

function letGo({ readable, writable }: NativeStream): void {
  readable.cancel().catch(() => {});
  writable.abort().catch(() => {});
}

/** The next turn of the event loop, or some milliseconds. */
function turn(milliseconds?: number): Promise<void> {
  return new Promise((resolve) => {
    if (milliseconds === undefined) setImmediate(resolve);
    else setTimeout(resolve, milliseconds);
  });
}

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
import { closeInfoOf, earlyDataRefused, type Trust } from "./errors.ts";
import {
  afterFirstFlight,
  type NativeConn,
  type NativeReadable,
  type NativeStream,
} from "./native.ts";
import { DenoQuicStream, type StreamOwner } from "./stream.ts";

/**
 * Maximum time in ms to wait, after a stream has failed, for the reason why its connection ended.
 */
const CLOSE_REASON_TIMEOUT_MS = 1000;

/**
 * Time in ms that a closing server leaves a client to receive and read a finished response. It
 * exceeds a round trip, because Deno discards received but unread data when the connection is
 * closed.
 */
const ANSWER_DRAIN_MS = 2000;

/**
 * Settings and callbacks of a {@link DenoQuicConnection}, which differ between client and server.
 */
export interface ConnectionOrigin {
  /**
   * Wraps event callbacks, and counts and reports their exceptions. Each exception ends the
   * connection concerned.
   */
  readonly guard: Guard;
  readonly server: boolean;
  /** True if the handshake is already complete. */
  readonly established: boolean;
  /** Requirements of a client for the server's certificate. Undefined on a server. */
  readonly trust?: Trust;
  /**
   * Called on a server when the client's first stream has arrived or the client has completed the
   * handshake. May be called several times.
   */
  readonly onUsable?: (connection: DenoQuicConnection) => void;
  /** Called when the handshake is complete. */
  readonly onEstablished?: (connection: DenoQuicConnection) => void;
  /**
   * True on a server that accepts streams before the handshake is complete (0-RTT). Default false.
   */
  readonly takesEarlyData?: boolean;
}

/** Functions that settle the promise of a pending `openStream` call. */
interface StreamWaiter {
  resolve(stream: ByteStream): void;
  reject(error: VortexError): void;
}

/** QUIC connection of a client or server that uses Deno's implementation. */
export class DenoQuicConnection implements Connection {
  readonly protocol = "quic";
  readonly remote: Address;
  readonly ready: Promise<void>;
  readonly closed: Promise<CloseInfo>;
  /**
   * Connection object of Deno. Undefined after the connection has ended, since a reference to the
   * object keeps its endpoint and UDP socket alive.
   */
  #native: NativeConn | undefined;
  readonly #origin: ConnectionOrigin;
  readonly #guard: Guard;
  readonly #owner: StreamOwner;
  readonly #streams = new Set<DenoQuicStream>();
  readonly #incoming = new AsyncQueue<ByteStream>();
  /** Pending `openStream` calls, oldest first. */
  readonly #waiters: StreamWaiter[] = [];
  /**
   * Streams opened for `openStream` calls that were aborted in the meantime. Each has used stream
   * credit, so later calls receive these streams first.
   */
  #spareStreams: DenoQuicStream[] = [];
  /** Number of streams that Deno is opening. */
  #opening = 0;
  #established: boolean;
  #earlyData: EarlyData = "none";
  /**
   * IDs of streams opened while the server's decision on early data (0-RTT) was pending. If a later
   * stream has the same ID, the server has refused early data.
   */
  readonly #earlyIds = new Set<bigint>();
  #earlyDataRefused = false;
  /** Callbacks to run when the server has accepted or refused early data (0-RTT). */
  #decisionCallbacks: (() => void)[] = [];
  readonly #startedAt = performance.now();
  /**
   * Time by which the server's TLS session for the next connection should have arrived. In ms, by
   * `performance.now()`.
   */
  #sessionExpectedAt = Number.NEGATIVE_INFINITY;
  /** Time at which this side last ended a stream. In ms, by `performance.now()`. */
  #lastEndedAt = Number.NEGATIVE_INFINITY;
  #closing = false;
  #onDelivered: (() => void) | undefined;
  /**
   * Closes an idle connection of a client, since Deno keeps the process alive while `closed` is
   * pending. Undefined on a server.
   */
  readonly #idleClose: IdleClose | undefined;
  #closeInfo: CloseInfo | undefined;
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
      waitForCloseReason: (cause) => this.#waitForCloseReason(cause),
      onPeerEnded: () => this.#checkDelivered(),
      onEnded: () => {
        this.#lastEndedAt = performance.now();
      },
      onEarlyDataRefused: (refused) => this.#onEarlyDataRefused(refused),
      onceEarlyDataDecided: (act) => {
        if (this.#isEarlyDataPending()) this.#decisionCallbacks.push(act);
        else act();
      },
      forget: (stream) => {
        this.#streams.delete(stream);
        this.#updateIdle();
        this.#checkDelivered();
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
      // An application close is sent only after the handshake (RFC 9000, section 10.2.3).
      this.#guard.wrap(
        ({ closeCode: code, reason }: { readonly closeCode: number; readonly reason: string }) =>
          this.#onEnd(closeInfo({ isApp: true, code, reason, remote: true, established: true })),
      ),
      this.#guard.wrap((cause: unknown) => {
        const { server, trust } = origin;
        const early = this.#earlyData !== "none";
        this.#onEnd(closeInfoOf(cause, { established: this.#established, server, early, trust }));
      }),
    );
    const takesStreams = origin.server && (origin.established || origin.takesEarlyData === true);
    if (takesStreams) this.#guard.run(() => this.#acceptStreams(native));
    if (origin.established) {
      this.#resolveReady();
      this.#updateIdle();
    } else {
      this.#guard.run(() => this.#finishHandshake(native));
      if (!origin.server) {
        this.#earlyData = "pending";
        // Only an early stream shows whether early data was accepted. The first `openStream` call
        // uses it.
        this.#open();
      }
    }
  }

  get earlyData(): EarlyData {
    return this.#earlyData;
  }

  /**
   * True if early data (0-RTT) was accepted. Deno does not report a resumed session without early
   * data.
   */
  get resumed(): boolean {
    return this.#earlyData === "accepted";
  }

  openStream(options: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    const { signal } = options;
    if (signal?.aborted) return Promise.reject(abortedError(signal, "opening a stream"));
    if (this.#closeInfo !== undefined) return Promise.reject(this.#closeInfo.error);
    if (this.#closing) return Promise.reject(closedLocally());
    const spare = this.#spareStreams.shift();
    if (spare !== undefined) {
      this.#updateIdle();
      return Promise.resolve(spare);
    }
    return new Promise((resolve, reject) => {
      const onAbort = this.#guard.wrap(() => {
        const at = this.#waiters.indexOf(waiter);
        if (at < 0 || signal === undefined) return;
        this.#waiters.splice(at, 1);
        this.#updateIdle();
        reject(abortedError(signal, "opening a stream"));
      });
      const settle = (): void => signal?.removeEventListener("abort", onAbort);
      const waiter: StreamWaiter = {
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
      this.#waiters.push(waiter);
      this.#updateIdle();
      if (this.#opening < this.#waiters.length) this.#open();
    });
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    const { grace = 5000 } = options;
    if (this.#closeInfo === undefined) {
      this.#closing = true;
      this.#incoming.end();
      this.#rejectWaiters(closedLocally());
      await this.#waitForDelivery(grace);
      this.abort();
    }
    await this.closed;
    // Deno sends the close frame in the next turn of the event loop, so an exiting process must
    // wait.
    await nextTurn();
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedLocally()): void {
    if (this.#closeInfo !== undefined) return;
    const native = this.#native;
    this.#onEnd({ code, reason, remote: false, error });
    for (const stream of this.#streams) stream.fail(error);
    const end = this.#guard.wrap(() => native?.close({ closeCode: code, reason }));
    if (this.#established || this.#origin.server) end();
    else afterFirstFlight(end);
  }

  /**
   * Waits until the peer has received the data of ended streams, for at most `grace` ms. Deno does
   * not report acknowledgements.
   *
   * A client waits until the server has ended its direction of these streams too. Without such
   * streams, it waits for the TLS session that it expects. A server waits {@link ANSWER_DRAIN_MS}
   * after the end of the last response, or until the client closes the connection.
   */
  async #waitForDelivery(grace: number): Promise<void> {
    const now = performance.now();
    const left = this.#origin.server
      ? Math.min(grace, this.#lastEndedAt + ANSWER_DRAIN_MS - now)
      : grace;
    if (left <= 0) return;
    if (!this.#origin.server && !this.#hasUndelivered()) {
      if (this.#sessionExpectedAt > now)
        await nextTurn(Math.min(grace, this.#sessionExpectedAt - now));
      return;
    }
    await new Promise<void>((resolve) => {
      const timer = this.#guard.clock.setTimer(resolve, left);
      this.#onDelivered = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  /**
   * Returns true if this side has ended its direction of a stream whose other direction the peer
   * has not ended.
   */
  #hasUndelivered(): boolean {
    return [...this.#streams].some((stream) => stream.undelivered);
  }

  #checkDelivered(): void {
    if (this.#onDelivered !== undefined && !this.#origin.server && !this.#hasUndelivered())
      this.#onDelivered();
  }

  // --- streams -----------------------------------------------------------------------------------

  /**
   * Asks Deno for a stream, which is created when stream credit permits. The stream goes to the
   * oldest pending `openStream` call.
   */
  #open(): void {
    const native = this.#native;
    if (native === undefined) return;
    this.#opening++;
    native.createBidirectionalStream({ waitUntilAvailable: true }).then(
      this.#guard.wrap((opened: NativeStream) => {
        this.#opening--;
        if (this.#closeInfo !== undefined || this.#earlyDataRefused || !this.#hasFreshId(opened)) {
          discard(opened);
          return;
        }
        const stream = this.#addStream(opened);
        const waiter = this.#waiters.shift();
        if (waiter === undefined) this.#spareStreams.push(stream);
        else waiter.resolve(stream);
        this.#updateIdle();
      }),
      this.#guard.wrap(async (cause: unknown) => {
        this.#opening--;
        this.#rejectWaiters(await this.#waitForCloseReason(cause));
      }),
    );
  }

  /**
   * Returns true if the stream ID was not used before. A reused ID shows that the server has
   * refused early data (0-RTT).
   *
   * After a refusal, quinn assigns the same IDs again. When quinn frees an early stream, it removes
   * the waker of the new stream with the same ID. Reads of the new stream then never settle, not
   * even at the end of the connection, and keep the UDP socket alive.
   *
   * The ID shows the refusal at once. Deno reports the refusal later: in a busy process, more than
   * two turns of the event loop later.
   */
  #hasFreshId({ readable }: NativeStream): boolean {
    if (this.#earlyData === "none") return true;
    const id = streamIdOf(readable);
    // The connection has ended, which Deno reports shortly.
    if (id === undefined) return false;
    if (this.#earlyIds.has(id)) {
      this.#guard.run(() => this.#onEarlyDataRefused(earlyDataRefused()));
      return false;
    }
    if (this.#isEarlyDataPending()) this.#earlyIds.add(id);
    return true;
  }

  /**
   * Returns true if this client dialled with early data (0-RTT), and the server has neither
   * accepted nor refused it yet.
   */
  #isEarlyDataPending(): boolean {
    return this.#earlyData === "pending" && this.#closeInfo === undefined;
  }

  #addStream(native: NativeStream): DenoQuicStream {
    const stream = new DenoQuicStream(native, this.#owner);
    this.#streams.add(stream);
    return stream;
  }

  /**
   * Starts the idle timer of a client if its handshake is complete, no stream is in use and no
   * `openStream` call is pending. Stops the timer otherwise.
   */
  #updateIdle(): void {
    if (this.#idleClose === undefined || this.#closeInfo !== undefined) return;
    const used = this.#streams.size - this.#spareStreams.length;
    this.#idleClose.busy = !this.#established || used > 0 || this.#waiters.length > 0;
  }

  #rejectWaiters(error: VortexError): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
  }

  async #acceptStreams(native: NativeConn): Promise<void> {
    try {
      for await (const stream of native.incomingBidirectionalStreams) {
        // An unanswered request fails with the connection and may be retried. A refusal would look
        // like an answer.
        if (this.#closing || this.#closeInfo !== undefined) return;
        this.#incoming.push(this.#addStream(stream));
        this.#origin.onUsable?.(this);
      }
    } catch {
      // The connection has ended; `closed` reports the reason.
    }
  }

  // --- handshake and end -------------------------------------------------------------------------

  async #finishHandshake(native: NativeConn): Promise<void> {
    await native.handshake;
    // Also resolves after a failed handshake or refused early data. Both show by the next turn.
    await nextTurn();
    if (this.#closeInfo !== undefined || this.#earlyDataRefused) return;
    this.#established = true;
    if (this.#earlyData === "pending") {
      this.#earlyData = this.#earlyIds.size > 0 ? "accepted" : "refused";
      this.#runDecisionCallbacks();
      // A session arrives a round trip after the handshake, which took about a round trip.
      const now = performance.now();
      this.#sessionExpectedAt = now + 2 * (now - this.#startedAt) + 10;
    }
    this.#resolveReady();
    this.#updateIdle();
    this.#origin.onEstablished?.(this);
    if (!this.#origin.server || this.#native === undefined) return;
    this.#origin.onUsable?.(this);
    if (this.#origin.takesEarlyData !== true) this.#guard.run(() => this.#acceptStreams(native));
  }

  /**
   * Ends the connection because the server has refused early data (0-RTT), and returns the error
   * for the streams. Later streams on the connection would be unsafe, see `#hasFreshId`.
   */
  async #onEarlyDataRefused(refused: VortexError): Promise<VortexError> {
    this.#earlyDataRefused = true;
    // quinn reports a refusal also when the connection ended before its handshake.
    await nextTurn();
    if (this.#closeInfo !== undefined) return this.#closeInfo.error;
    this.#established = true;
    this.#earlyData = "refused";
    this.abort(StreamCode.None, "", refused);
    return refused;
  }

  /** Runs the callbacks that wait until the server has accepted or refused early data (0-RTT). */
  #runDecisionCallbacks(): void {
    for (const act of this.#decisionCallbacks.splice(0)) act();
  }

  /**
   * Waits up to {@link CLOSE_REASON_TIMEOUT_MS} for the end of the connection. Returns the error of
   * the ended connection, or an error made from `cause` if the connection is still open.
   */
  async #waitForCloseReason(cause: unknown): Promise<VortexError> {
    if (this.#closeInfo === undefined) {
      let timer: Timer | undefined;
      const timeout = new Promise<void>((resolve) => {
        timer = this.#guard.clock.setTimer(resolve, CLOSE_REASON_TIMEOUT_MS);
      });
      await Promise.race([this.closed, timeout]);
      timer?.cancel();
    }
    return this.#closeInfo?.error ?? VortexError.from(cause, "ConnectionLost", "stream failed");
  }

  #onEnd(info: CloseInfo): void {
    if (this.#closeInfo !== undefined) return;
    this.#closeInfo = info;
    this.#closing = true;
    if (this.#idleClose !== undefined) this.#idleClose.busy = true;
    this.#native = undefined;
    this.#spareStreams = [];
    this.#rejectReady(info.error);
    this.#rejectWaiters(info.error);
    this.#incoming.end();
    this.#runDecisionCallbacks();
    this.#onDelivered?.();
    this.#resolveClosed(info);
  }
}

function closedLocally(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}

/** Returns the ID of a stream, or undefined if the connection has ended. */
function streamIdOf(readable: NativeReadable): bigint | undefined {
  try {
    return readable.id;
  } catch {
    return undefined;
  }
}

/** Cancels the receiving direction of a stream and aborts its sending direction. */
function discard({ readable, writable }: NativeStream): void {
  readable.cancel().catch(() => {});
  writable.abort().catch(() => {});
}

/**
 * Resolves after `milliseconds`, or in the next turn of the event loop if `milliseconds` is
 * undefined.
 */
function nextTurn(milliseconds?: number): Promise<void> {
  return new Promise((resolve) => {
    if (milliseconds === undefined) setImmediate(resolve);
    else setTimeout(resolve, milliseconds);
  });
}

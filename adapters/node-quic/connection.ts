import { abortedError, VortexError } from "../../src/errors.ts";
import type { Clock, Timer } from "../../src/runtime.ts";
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
import { refusalCode, silentEnd } from "../shared/quic-errors.ts";
import { closeInfoOf } from "./errors.ts";
import type { CloseConfig, HandshakeInfo, NativeSession, NativeStream } from "./native.ts";
import type { NodeQuicSettings } from "./options.ts";
import { NodeQuicStream } from "./stream.ts";

/**
 * Time in which the end of a connection becomes visible after a stream has failed, in ms. The
 * runtime fails the streams first, and the connection one turn of the event loop later, by a timer
 * of 1 ms. A longer timer that is set in between fires after it.
 */
const CLOSE_SETTLE_MS = 10;
/** Interval of polling for stream credit, for which the runtime has no event, in ms. */
const POLL_INTERVAL_MS = 2;
/** Polls at the short interval before the long one is used. */
const MAX_FAST_POLLS = 100;
/** Long polling interval, for stream credit and blocked writers, in ms. */
const SLOW_POLL_INTERVAL_MS = 20;
/** Checks for silence of the peer per idle timeout. */
const IDLE_CHECKS = 8;

/** Dependencies of a connection, which differ between client and server. */
export interface ConnectionHost {
  readonly clock: Clock;
  /**
   * Wraps this connection's callbacks; an exception ends it by {@link NodeQuicConnection.abort}.
   */
  readonly guard: Guard;
  readonly settings: NodeQuicSettings;
  readonly server: boolean;
  /**
   * Called when the handshake is complete. Throwing ends the connection with that error.
   *
   * @param info result of the handshake; undefined while the peer has not confirmed it
   */
  onEstablished(connection: NodeQuicConnection, info: HandshakeInfo | undefined): void;
  /** Called when requests arrive as early data. Throwing ends the connection with that error. */
  onEarlyData(connection: NodeQuicConnection): void;
  /** Called when the connection has ended. */
  onEnded(connection: NodeQuicConnection): void;
}

/** A pending `openStream` call. */
interface CreditWaiter {
  resolve(stream: ByteStream): void;
  reject(error: VortexError): void;
}

/** QUIC connection of a client or server on a `node:quic` session. */
export class NodeQuicConnection implements Connection {
  readonly protocol = "quic";
  readonly session: NativeSession;
  readonly closed: Promise<CloseInfo>;
  readonly ready: Promise<void>;
  readonly #host: ConnectionHost;
  readonly guard: Guard;
  readonly #clock: Clock;
  #remote: Address | undefined;
  readonly #streams = new Set<NodeQuicStream>();
  readonly #incoming = new AsyncQueue<ByteStream>();
  /** Pending `openStream` calls, in order. */
  readonly #waiters: CreditWaiter[] = [];
  /**
   * Stream created ahead for the next `openStream` call. The runtime can queue several, but a
   * stream that is removed from its queue takes its credit along.
   */
  #spareStream: NativeStream | undefined;
  #creatingSpare = false;
  #creditTimer: Timer | undefined;
  #creditPolls = 0;
  /** Streams with a blocked writer. */
  readonly #blockedWriters = new Set<NodeQuicStream>();
  #blockedTimer: Timer | undefined;
  /** Received bytes of all streams that await their readers. */
  #unreadBytes = 0;
  #established = false;
  #earlyData: EarlyData;
  #resumed = false;
  #closing = false;
  /** Close information to report, once this side has begun to close. */
  #pendingCloseInfo: CloseInfo | undefined;
  #closeInfo: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #resolveReady: () => void = () => {};
  #rejectReady: (error: VortexError) => void = () => {};
  /** Packets received at the last check for silence. */
  #receivedPackets = 0n;
  #lastReceived: number;
  #idleTimer: Timer | undefined;
  /** Closes a client's idle connection, since `node:quic` has no `unref`. Undefined on a server. */
  readonly #idleClose: IdleClose | undefined;

  constructor(
    session: NativeSession,
    remote: Address | undefined,
    earlyData: EarlyData,
    host: ConnectionHost,
  ) {
    this.session = session;
    this.#remote = remote;
    this.#earlyData = earlyData;
    this.#host = host;
    this.guard = host.guard;
    this.#clock = host.guard.over(host.clock);
    this.#lastReceived = this.#clock.now();
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.ready = new Promise((resolve, reject) => {
      this.#resolveReady = resolve;
      this.#rejectReady = reject;
    });
    this.ready.catch(() => {});
    if (!host.server) {
      this.#idleClose = new IdleClose(this.#clock, (error) =>
        this.abort(StreamCode.None, "", error),
      );
    }
    session.onerror = () => {};
    session.onstream = this.guard.wrap((stream: NativeStream) => this.#onStream(stream));
    session.opened.then(
      this.guard.wrap((info: HandshakeInfo) => this.#onOpened(info)),
      // `closed` rejects too, with the same reason.
      () => {},
    );
    session.closed.then(
      this.guard.wrap(() => this.#onClosed(undefined)),
      this.guard.wrap((cause: unknown) => this.#onClosed(cause)),
    );
    this.#checkSilence();
  }

  get remote(): Address {
    this.#remote ??= remoteOf(this.session);
    return this.#remote;
  }

  get resumed(): boolean {
    return this.#resumed;
  }

  get earlyData(): EarlyData {
    return this.#earlyData;
  }

  get established(): boolean {
    return this.#established;
  }

  // --- called by the application -----------------------------------------------------------------

  openStream({ signal }: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(abortedError(signal, "opening a stream"));
        return;
      }
      if (this.#closeInfo !== undefined || this.#closing) {
        reject(this.#closeInfo?.error ?? closedLocally());
        return;
      }
      const settled = (): void => signal?.removeEventListener("abort", onAbort);
      const waiter: CreditWaiter = {
        resolve(stream) {
          settled();
          resolve(stream);
        },
        reject(error) {
          settled();
          reject(error);
        },
      };
      const onAbort = this.guard.wrap(() => {
        const index = this.#waiters.indexOf(waiter);
        if (index < 0 || signal === undefined) return;
        this.#waiters.splice(index, 1);
        waiter.reject(abortedError(signal, "opening a stream"));
        this.#updateIdle();
      });
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiters.push(waiter);
      this.#updateIdle();
      this.#serveWaiters();
    });
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    if (this.#closeInfo !== undefined) return;
    this.#closing = true;
    this.#incoming.end();
    this.#rejectWaiters(closedLocally());
    const grace = options.grace ?? 5000;
    // The module waits until all written data is acknowledged, so unfinished streams are reset
    // first.
    const owed = [...this.#streams].filter((stream) => stream.resetUnlessEnded());
    if (grace > 0 && this.#established && owed.length > 0) {
      this.#pendingCloseInfo = {
        code: StreamCode.None,
        reason: "",
        remote: false,
        error: closedLocally(),
      };
      this.session.close(applicationClose(StreamCode.None, "")).catch(() => {});
      await this.#closedWithin(grace);
    }
    this.abort(StreamCode.None, "");
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedLocally()): void {
    // Before the handshake is complete, the peer may understand no other code.
    const config: CloseConfig = this.#established
      ? applicationClose(code, reason)
      : { code: 0, type: "transport", reason: "" };
    this.#closeLocally(config, { code, reason, remote: false, error });
  }

  /** Ends the connection with a transport or TLS error, before the application has seen it. */
  refuse(error: VortexError): void {
    const code = refusalCode(error);
    const config: CloseConfig = { code, type: "transport", reason: "" };
    this.#closeLocally(config, { code, reason: error.message, remote: false, error });
  }

  // --- handshake ---------------------------------------------------------------------------------

  /**
   * Detects the end of this side's handshake, a round trip before {@link NativeSession.opened}:
   * from then on a stream is no longer pending. Polls, since the module has no event for it.
   */
  async watchHandshake(): Promise<void> {
    await this.#createSpare();
    const look = (): void => {
      if (this.#established || this.#closeInfo !== undefined) return;
      if (this.#spareStream?.pending === false) this.#establish(undefined);
      else this.#clock.setTimer(look, 1);
    };
    look();
  }

  #establish(info: HandshakeInfo | undefined): void {
    if (this.#established || this.#closeInfo !== undefined) return;
    try {
      this.#host.onEstablished(this, info);
    } catch (error) {
      this.refuse(VortexError.from(error, "HandshakeFailed"));
      return;
    }
    this.#established = true;
    this.#resolveReady();
    this.#updateIdle();
    this.#serveWaiters();
  }

  /** Handles the confirmation of the handshake by the peer. */
  #onOpened(info: HandshakeInfo): void {
    if (this.#closeInfo !== undefined) return;
    if (this.#earlyData === "pending") {
      // On a server, the arrival of early streams already shows acceptance.
      const attempted = this.#host.server || info.earlyDataAttempted;
      const accepted = this.#host.server || info.earlyDataAccepted;
      this.#earlyData = accepted ? "accepted" : attempted ? "refused" : "none";
    }
    // The module does not report a resumption without early data.
    this.#resumed = this.#earlyData === "accepted";
    this.#establish(info);
  }

  // --- called by streams -------------------------------------------------------------------------

  /** True when the connection has ended, on this side or in the runtime. */
  get hasEnded(): boolean {
    return this.#closeInfo !== undefined || this.session.destroyed;
  }

  /**
   * Determines why a stream failed. The runtime shows the end of the connection on its streams
   * first, as a reset with code 0. Refused early data looks the same. STOP_SENDING from the peer
   * arrives without its code.
   *
   * @param peerAction action of the peer to report for a plain reset
   * @param code error code of the reset, or 0
   * @param early the stream was opened before the handshake was complete
   */
  async explainReset(
    peerAction: string,
    code: number,
    early: boolean,
    cause?: unknown,
  ): Promise<VortexError> {
    if (early && !this.#established) await this.ready.catch(() => {});
    if (this.#closeInfo === undefined && early && this.#earlyData === "refused") {
      return new VortexError(
        "EarlyDataRefused",
        "early data refused: the peer did not accept requests before the end of the handshake",
        { cause },
      );
    }
    if (code === 0) await this.staysOpen();
    if (this.#closeInfo !== undefined) return this.#closeInfo.error;
    const suffix = code === 0 ? "" : ` (code ${code})`;
    return new VortexError("StreamReset", `stream reset: ${peerAction}${suffix}`, { cause });
  }

  /** Resolves to false if the connection has ended or ends within {@link CLOSE_SETTLE_MS}. */
  async staysOpen(): Promise<boolean> {
    if (this.#closeInfo === undefined) await this.#closedWithin(CLOSE_SETTLE_MS);
    return this.#closeInfo === undefined;
  }

  /** Adds to the number of received bytes that await their readers; negative to subtract. */
  countUnread(bytes: number): void {
    this.#unreadBytes += bytes;
  }

  /**
   * Returns `unreadLimit` if it is exceeded, otherwise undefined.
   *
   * @param held unread bytes of the calling stream
   */
  exceededLimit(held: number): number | undefined {
    const { server, settings } = this.#host;
    return (server ? this.#unreadBytes : held) > settings.unreadLimit
      ? settings.unreadLimit
      : undefined;
  }

  /** Registers or removes a stream with a blocked writer. */
  setWriting(stream: NodeQuicStream, waits: boolean): void {
    if (waits) this.#blockedWriters.add(stream);
    else this.#blockedWriters.delete(stream);
    if (waits)
      this.#blockedTimer ??= this.#clock.setTimer(() => this.#pollBlocked(), SLOW_POLL_INTERVAL_MS);
  }

  // --- internals ---------------------------------------------------------------------------------

  #addStream(native: NativeStream): NodeQuicStream {
    const early = !this.#host.server && !this.#established;
    const stream = new NodeQuicStream(native, this, early);
    this.#streams.add(stream);
    const over = this.guard.wrap(() => {
      this.#streams.delete(stream);
      this.#updateIdle();
      // The end of the stream may have returned its credit.
      this.#serveWaiters();
    });
    native.closed.then(over, over);
    return stream;
  }

  #onStream(native: NativeStream): void {
    native.closed.catch(() => {});
    try {
      if (!this.#established && this.#earlyData === "none") {
        this.#host.onEarlyData(this);
        this.#earlyData = "pending";
      }
    } catch (error) {
      this.refuse(VortexError.from(error, "ConnectionRefused"));
      return;
    }
    const stream = this.#addStream(native);
    if (this.#incoming.push(stream)) return;
    stream.reader.cancel(StreamCode.Busy);
    stream.writer.abort(StreamCode.Busy);
  }

  /** Resolves pending `openStream` calls as long as there is stream credit. */
  #serveWaiters(): void {
    while (this.#waiters.length > 0 && this.#closeInfo === undefined && !this.#closing) {
      const spare = this.#spareStream;
      if (spare === undefined) {
        this.guard.run(() => this.#createSpare());
        return;
      }
      // Before the end of the handshake, the runtime queues early data itself, so credit does not
      // matter.
      if (spare.pending && this.#earlyData !== "pending") {
        this.#pollCredit();
        return;
      }
      this.#spareStream = undefined;
      this.#creditPolls = 0;
      this.#waiters.shift()?.resolve(this.#addStream(spare));
    }
  }

  /** Creates the spare stream, then serves pending calls. */
  async #createSpare(): Promise<void> {
    if (this.#creatingSpare) return;
    this.#creatingSpare = true;
    try {
      this.#spareStream = await this.session.createBidirectionalStream();
      this.#spareStream.closed.catch(() => {});
    } catch (cause) {
      const error = await this.explainReset("cannot open a stream", 0, false, cause);
      this.#rejectWaiters(error);
    } finally {
      this.#creatingSpare = false;
    }
    this.#serveWaiters();
  }

  /** Polls for stream credit, since the module has no event for it. */
  #pollCredit(): void {
    const wait = this.#creditPolls++ < MAX_FAST_POLLS ? POLL_INTERVAL_MS : SLOW_POLL_INTERVAL_MS;
    this.#creditTimer ??= this.#clock.setTimer(() => {
      this.#creditTimer = undefined;
      this.#serveWaiters();
    }, wait);
  }

  /** Wakes writers of stopped streams. Polls, since the module has no event for STOP_SENDING. */
  #pollBlocked(): void {
    this.#blockedTimer = undefined;
    for (const stream of this.#blockedWriters) stream.wakeIfStopped();
    if (this.#blockedWriters.size > 0 && this.#closeInfo === undefined) {
      this.#blockedTimer = this.#clock.setTimer(() => this.#pollBlocked(), SLOW_POLL_INTERVAL_MS);
    }
  }

  /** Starts or stops the idle timer, depending on open streams and pending calls. */
  #updateIdle(): void {
    if (this.#idleClose === undefined || this.#closeInfo !== undefined) return;
    this.#idleClose.busy = !this.#established || this.#streams.size > 0 || this.#waiters.length > 0;
  }

  #rejectWaiters(error: VortexError): void {
    for (const { reject } of this.#waiters.splice(0)) reject(error);
  }

  /**
   * Enforces the idle timeout. The module does not distinguish a close by the peer from an idle
   * timeout. It also keeps a connection alive for a minute on which only this side sends.
   */
  #checkSilence(): void {
    const { settings, server } = this.#host;
    const clock = this.#clock;
    const { pktRecv } = this.session.stats;
    if (pktRecv !== this.#receivedPackets) {
      this.#receivedPackets = pktRecv;
      this.#lastReceived = clock.now();
    } else if (clock.now() - this.#lastReceived >= settings.idleTimeout) {
      this.#closeLocally(
        applicationClose(StreamCode.None, ""),
        silentEnd(true, this.#established, server),
      );
      return;
    }
    const next = settings.idleTimeout / IDLE_CHECKS;
    this.#idleTimer = clock.setTimer(() => this.#checkSilence(), next, { background: true });
  }

  #onClosed(cause: unknown): void {
    if (this.#closeInfo !== undefined) return;
    if (this.#pendingCloseInfo !== undefined) {
      this.#finish(this.#pendingCloseInfo);
      return;
    }
    const { settings, server } = this.#host;
    const clock = this.#clock;
    const silence = clock.now() - this.#lastReceived;
    const silent = silence >= settings.idleTimeout * (1 - 2 / IDLE_CHECKS);
    const used = this.#earlyData === "pending";
    this.#finish(closeInfoOf(cause, { established: this.#established, used, server, silent }));
  }

  #closeLocally(config: CloseConfig, info: CloseInfo): void {
    if (this.#closeInfo !== undefined) return;
    this.#finish(info);
    if (!this.session.destroyed) this.session.destroy(undefined, config);
  }

  #finish(info: CloseInfo): void {
    this.#closeInfo = info;
    if (this.#idleClose !== undefined) this.#idleClose.busy = true;
    if (this.#earlyData === "pending") {
      // A peer refuses early data before its application can close the connection.
      this.#earlyData =
        info.remote && info.error.code === "ConnectionLost" ? "accepted" : "refused";
    }
    for (const timer of [this.#idleTimer, this.#creditTimer, this.#blockedTimer]) timer?.cancel();
    this.#incoming.end();
    this.#rejectWaiters(info.error);
    for (const stream of this.#streams) stream.fail(info.error);
    this.#streams.clear();
    this.#rejectReady(info.error);
    this.#resolveClosed(info);
    this.#host.onEnded(this);
  }

  /** Waits until the connection has ended, for at most `milliseconds`. */
  #closedWithin(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const clock = this.#clock;
      // In two halves: after a suspension the process handles received packets before the second
      // half.
      let timer = clock.setTimer(() => {
        timer = clock.setTimer(resolve, milliseconds / 2);
      }, milliseconds / 2);
      void this.closed.then(() => {
        timer.cancel();
        resolve();
      });
    });
  }
}

function applicationClose(code: number, reason: string): CloseConfig {
  return { code, type: "application", reason };
}

function remoteOf({ path }: NativeSession): Address {
  return { host: path?.remote?.address ?? "", port: path?.remote?.port ?? 0 };
}

function closedLocally(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}

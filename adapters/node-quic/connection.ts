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
 * Time in ms within which the end of a connection becomes visible after one of its streams has
 * failed. The `node:quic` module first fails the streams. One turn of the event loop later, by a
 * timer of 1 ms, the connection ends. A timer of this length that is set in between fires after
 * that.
 */
const CLOSE_SETTLE_MS = 10;
/**
 * Interval in ms between the first {@link MAX_FAST_POLLS} checks for stream credit. The `node:quic`
 * module has no event for new credit.
 */
const POLL_INTERVAL_MS = 2;
/**
 * Number of checks for stream credit at the short interval, before the interval becomes
 * {@link SLOW_POLL_INTERVAL_MS}.
 */
const MAX_FAST_POLLS = 100;
/**
 * Interval in ms between later checks for stream credit. Also the interval between checks whether
 * the peer has stopped a stream with a waiting write.
 */
const SLOW_POLL_INTERVAL_MS = 20;
/** Number of checks for a silent peer within one idle timeout. */
const IDLE_CHECKS = 8;

/**
 * Settings and callbacks of a {@link NodeQuicConnection}, which differ between client and server.
 */
export interface ConnectionHost {
  readonly clock: Clock;
  /**
   * Wraps the event callbacks of this connection. If a callback throws, the guard ends the
   * connection by {@link NodeQuicConnection.abort}.
   */
  readonly guard: Guard;
  readonly settings: NodeQuicSettings;
  readonly server: boolean;
  /**
   * Called when the handshake is complete. If it throws, the connection is refused with that error.
   *
   * @param info result of the handshake; undefined if the peer has not confirmed the handshake yet
   */
  onEstablished(connection: NodeQuicConnection, info: HandshakeInfo | undefined): void;
  /**
   * Called on a server when a stream arrives as early data (0-RTT). If it throws, the connection is
   * refused with that error.
   */
  onEarlyData(connection: NodeQuicConnection): void;
  /** Called when the connection has ended. */
  onEnded(connection: NodeQuicConnection): void;
}

/** Functions that settle the promise of a pending `openStream` call. */
interface CreditWaiter {
  resolve(stream: ByteStream): void;
  reject(error: VortexError): void;
}

/** QUIC connection of a client or server that uses `node:quic`. */
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
  /** Pending `openStream` calls that wait for stream credit, oldest first. */
  readonly #waiters: CreditWaiter[] = [];
  /**
   * Stream that was created in advance for the next `openStream` call. Only one stream is created:
   * `node:quic` can queue several, but loses stream credit when a queued stream is removed.
   */
  #spareStream: NativeStream | undefined;
  #creatingSpare = false;
  #creditTimer: Timer | undefined;
  #creditPolls = 0;
  /** Streams with a write that waits for space in the send buffer of `node:quic`. */
  readonly #blockedWriters = new Set<NodeQuicStream>();
  #blockedTimer: Timer | undefined;
  /** Number of received bytes in all streams that the application has not read yet. */
  #unreadBytes = 0;
  #established = false;
  #earlyData: EarlyData;
  #resumed = false;
  #closing = false;
  /**
   * Value that `closed` resolves to when a graceful close by this side is complete. Undefined
   * before a graceful close has begun.
   */
  #pendingCloseInfo: CloseInfo | undefined;
  #closeInfo: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #resolveReady: () => void = () => {};
  #rejectReady: (error: VortexError) => void = () => {};
  /** Number of packets received up to the last check for a silent peer. */
  #receivedPackets = 0n;
  #lastReceived: number;
  #idleTimer: Timer | undefined;
  /**
   * Closes an idle connection of a client, since `node:quic` has no `unref` and would keep the
   * process alive. Undefined on a server.
   */
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

  /**
   * Ends the connection during its handshake, by a CONNECTION_CLOSE frame with a transport error
   * code (RFC 9000, section 20.1). Pending calls reject with `error`.
   */
  refuse(error: VortexError): void {
    const code = refusalCode(error);
    const config: CloseConfig = { code, type: "transport", reason: "" };
    this.#closeLocally(config, { code, reason: error.message, remote: false, error });
  }

  // --- handshake ---------------------------------------------------------------------------------

  /**
   * Detects that this side has completed its handshake, one round trip before
   * {@link NativeSession.opened} resolves. The sign is that a newly created stream is no longer
   * pending. Checks this every millisecond, as `node:quic` has no event for it.
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

  /** Handles the peer's confirmation of the handshake (RFC 9001, section 4.1.2). */
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

  /** True if the end of the connection was recorded, or `node:quic` has destroyed the session. */
  get hasEnded(): boolean {
    return this.#closeInfo !== undefined || this.session.destroyed;
  }

  /**
   * Returns the error to report for a failed stream: the error of the ended connection, of refused
   * early data, or of a reset.
   *
   * When a connection ends, `node:quic` first resets its streams with code 0. Refused early data
   * causes the same resets. STOP_SENDING from the peer arrives without its code. So this method
   * waits up to {@link CLOSE_SETTLE_MS} for the end of the connection.
   *
   * @param peerAction description of what the peer did, for the message of a reset
   * @param code error code of the reset, or 0 if it is unknown
   * @param early true if the stream was opened before the handshake was complete
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

  /**
   * Resolves to true if the connection stays open for {@link CLOSE_SETTLE_MS}. Resolves to false if
   * the connection has ended or ends within that time.
   */
  async staysOpen(): Promise<boolean> {
    if (this.#closeInfo === undefined) await this.#closedWithin(CLOSE_SETTLE_MS);
    return this.#closeInfo === undefined;
  }

  /**
   * Adds `bytes` to the number of received bytes, over all streams, that the application has not
   * read yet. A negative value subtracts.
   */
  countUnread(bytes: number): void {
    this.#unreadBytes += bytes;
  }

  /**
   * Returns the option `unreadLimit` if too many bytes are unread, otherwise undefined. A client
   * compares the limit with the unread bytes of the stream, a server with those of the connection.
   *
   * @param held number of unread bytes of the calling stream
   */
  exceededLimit(held: number): number | undefined {
    const { server, settings } = this.#host;
    return (server ? this.#unreadBytes : held) > settings.unreadLimit
      ? settings.unreadLimit
      : undefined;
  }

  /**
   * Adds a stream to, or removes it from, the set of streams with a write that waits for buffer
   * space.
   *
   * @param waits true if the stream has such a write
   */
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

  /**
   * Creates a stream in advance for the next `openStream` call, then resolves pending calls. If no
   * stream can be created, rejects all pending calls.
   */
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

  /**
   * Sets a timer that checks for stream credit and resolves pending `openStream` calls. The
   * `node:quic` module has no event for new credit.
   */
  #pollCredit(): void {
    const wait = this.#creditPolls++ < MAX_FAST_POLLS ? POLL_INTERVAL_MS : SLOW_POLL_INTERVAL_MS;
    this.#creditTimer ??= this.#clock.setTimer(() => {
      this.#creditTimer = undefined;
      this.#serveWaiters();
    }, wait);
  }

  /**
   * Wakes waiting writes of streams that the peer has stopped, and sets the timer for the next
   * check. The `node:quic` module has no event for STOP_SENDING.
   */
  #pollBlocked(): void {
    this.#blockedTimer = undefined;
    for (const stream of this.#blockedWriters) stream.wakeIfStopped();
    if (this.#blockedWriters.size > 0 && this.#closeInfo === undefined) {
      this.#blockedTimer = this.#clock.setTimer(() => this.#pollBlocked(), SLOW_POLL_INTERVAL_MS);
    }
  }

  /**
   * Starts the idle timer of a client if its handshake is complete, no stream is open and no
   * `openStream` call is pending. Stops the timer otherwise.
   */
  #updateIdle(): void {
    if (this.#idleClose === undefined || this.#closeInfo !== undefined) return;
    this.#idleClose.busy = !this.#established || this.#streams.size > 0 || this.#waiters.length > 0;
  }

  #rejectWaiters(error: VortexError): void {
    for (const { reject } of this.#waiters.splice(0)) reject(error);
  }

  /**
   * Ends the connection if nothing was received for the idle timeout, and otherwise sets the timer
   * for the next check.
   *
   * The idle timeout of `node:quic` is not enough, since it looks like a close by the peer. If only
   * this side sends, `node:quic` also keeps the connection alive for a minute.
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

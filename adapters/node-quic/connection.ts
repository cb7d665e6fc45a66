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
import { sessionEnd } from "./errors.ts";
import type { CloseConfig, HandshakeInfo, NativeSession, NativeStream } from "./native.ts";
import type { NodeQuicSettings } from "./options.ts";
import { NodeQuicStream } from "./stream.ts";

/**
 * Milliseconds in which a connection that is lost shows as such. The runtime fails its streams first, and the connection a
 * turn of the event loop later, by a timer of 1 ms; so a longer timer that is set in between fires after it.
 */
const VERDICT = 10;
/** Milliseconds between two looks at what the runtime has no event for, and how many come before it looks less often. */
const LOOK = 2;
const FREQUENT_LOOKS = 100;
const RARE_LOOK = 20;
/** Looks at the silence of a peer within an idle timeout. */
const IDLE_LOOKS = 8;

/** Where a connection belongs; the difference between a client's and a server's. */
export interface ConnectionHost {
  readonly clock: Clock;
  /** For the callbacks of this connection; it ends the connection by {@link NodeQuicConnection.abort}. */
  readonly guard: Guard;
  readonly settings: NodeQuicSettings;
  readonly server: boolean;
  /**
   * The handshake is over; `info` is there if the other side has confirmed it. A throw ends the connection with that error.
   */
  onEstablished(connection: NodeQuicConnection, info: HandshakeInfo | undefined): void;
  /** Requests have come ahead of the end of the handshake. A throw ends the connection with that error. */
  onEarlyData(connection: NodeQuicConnection): void;
  /** The connection has ended. */
  onEnded(connection: NodeQuicConnection): void;
}

interface CreditWaiter {
  resolve(stream: ByteStream): void;
  reject(error: VortexError): void;
}

/** One connection of `node:quic`, of a client or a server. */
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
  /** Who waits for a stream, in order. */
  readonly #waiters: CreditWaiter[] = [];
  /** A stream for the next one who asks. The runtime would also queue them, but what leaves its queue takes credit along. */
  #spare: NativeStream | undefined;
  #creating = false;
  #creditTimer: Timer | undefined;
  #creditLooks = 0;
  /** Streams with a writer that waits. */
  readonly #blocked = new Set<NodeQuicStream>();
  #blockedTimer: Timer | undefined;
  #unread = 0;
  #established = false;
  #earlyData: EarlyData;
  #resumed = false;
  #draining = false;
  /** How it will have ended, when this side has begun to close it. */
  #ending: CloseInfo | undefined;
  #end: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #resolveReady: () => void = () => {};
  #rejectReady: (error: VortexError) => void = () => {};
  #received = 0n;
  #lastReceived: number;
  #idleTimer: Timer | undefined;
  /** On a client: `node:quic` has no `unref`. */
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
      // `closed` tells as much.
      () => {},
    );
    session.closed.then(
      this.guard.wrap(() => this.#onClosed(undefined)),
      this.guard.wrap((cause: unknown) => this.#onClosed(cause)),
    );
    this.#watchSilence();
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

  // --- the application's side -------------------------------------------------------------------------------------

  openStream({ signal }: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(abortedError(signal, "opening a stream"));
        return;
      }
      if (this.#end !== undefined || this.#draining) {
        reject(this.#end?.error ?? closedHere());
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
        this.#checkIdle();
      });
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiters.push(waiter);
      this.#checkIdle();
      this.#supply();
    });
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    if (this.#end !== undefined) return;
    this.#draining = true;
    this.#incoming.end();
    this.#rejectWaiters(closedHere());
    const grace = options.grace ?? 5000;
    // The module waits until all that was written has been acknowledged, so what has not been ended must not hold it.
    const owed = [...this.#streams].filter((stream) => stream.leaveIfOpen());
    if (grace > 0 && this.#established && owed.length > 0) {
      this.#ending = { code: StreamCode.None, reason: "", remote: false, error: closedHere() };
      this.session.close(closing(StreamCode.None, "")).catch(() => {});
      await this.#closedWithin(grace);
    }
    this.abort(StreamCode.None, "");
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedHere()): void {
    // Ahead of the end of the handshake, the peer may understand no code but this one.
    const config: CloseConfig = this.#established
      ? closing(code, reason)
      : { code: 0, type: "transport", reason: "" };
    this.#endHere(config, { code, reason, remote: false, error });
  }

  /** Ends the connection for a reason of TLS or of the transport, before the application has seen it. */
  refuse(error: VortexError): void {
    const code = refusalCode(error);
    const config: CloseConfig = { code, type: "transport", reason: "" };
    this.#endHere(config, { code, reason: error.message, remote: false, error });
  }

  // --- the handshake ----------------------------------------------------------------------------------------------

  /**
   * Looks whether this side's part of the handshake is over, which is a round trip before {@link NativeSession.opened}: from
   * then on a stream has an id. There is no event for it.
   */
  async watchHandshake(): Promise<void> {
    await this.#create();
    const look = (): void => {
      if (this.#established || this.#end !== undefined) return;
      if (this.#spare?.pending === false) this.#establish(undefined);
      else this.#clock.setTimer(look, 1);
    };
    look();
  }

  #establish(info: HandshakeInfo | undefined): void {
    if (this.#established || this.#end !== undefined) return;
    try {
      this.#host.onEstablished(this, info);
    } catch (error) {
      this.refuse(VortexError.from(error, "HandshakeFailed"));
      return;
    }
    this.#established = true;
    this.#resolveReady();
    this.#checkIdle();
    this.#supply();
  }

  /** Both sides have confirmed the handshake. */
  #onOpened(info: HandshakeInfo): void {
    if (this.#end !== undefined) return;
    if (this.#earlyData === "pending") {
      // A server tells by the early streams themselves.
      const attempted = this.#host.server || info.earlyDataAttempted;
      const accepted = this.#host.server || info.earlyDataAccepted;
      this.#earlyData = accepted ? "accepted" : attempted ? "refused" : "none";
    }
    // Of a session that is resumed without early data, nothing is told.
    this.#resumed = this.#earlyData === "accepted";
    this.#establish(info);
  }

  // --- the streams' side ------------------------------------------------------------------------------------------

  /** Whether the connection has ended, here or for the runtime. */
  get isGone(): boolean {
    return this.#end !== undefined || this.session.destroyed;
  }

  /**
   * Why a stream failed. The end of the connection shows on its streams first, as a reset with code 0, and so does the
   * refusal of early data; a stop of the other side shows without its code.
   */
  async verdict(what: string, code: number, early: boolean, cause?: unknown): Promise<VortexError> {
    if (early && !this.#established) await this.ready.catch(() => {});
    if (this.#end === undefined && early && this.#earlyData === "refused") {
      return new VortexError(
        "EarlyDataRefused",
        "the peer did not take requests ahead of the handshake",
        { cause },
      );
    }
    if (code === 0) await this.survives();
    if (this.#end !== undefined) return this.#end.error;
    return new VortexError("StreamReset", code === 0 ? what : `${what} (code ${code})`, { cause });
  }

  /** Whether the connection goes on, if it can be in doubt. */
  async survives(): Promise<boolean> {
    if (this.#end === undefined) await this.#closedWithin(VERDICT);
    return this.#end === undefined;
  }

  /** Counts bytes that are held for readers. */
  countUnread(bytes: number): void {
    this.#unread += bytes;
  }

  /** The limit that is exceeded by a stream that holds so many bytes, if one is. */
  exceededLimit(held: number): number | undefined {
    const { server, settings } = this.#host;
    return (server ? this.#unread : held) > settings.unreadLimit ? settings.unreadLimit : undefined;
  }

  /** A writer waits, or does not any more. */
  watch(stream: NodeQuicStream, waits: boolean): void {
    if (waits) this.#blocked.add(stream);
    else this.#blocked.delete(stream);
    if (waits) this.#blockedTimer ??= this.#clock.setTimer(() => this.#lookAtBlocked(), RARE_LOOK);
  }

  // --- inside -----------------------------------------------------------------------------------------------------

  #adopt(native: NativeStream): NodeQuicStream {
    const early = !this.#host.server && !this.#established;
    const stream = new NodeQuicStream(native, this, early);
    this.#streams.add(stream);
    const over = this.guard.wrap(() => {
      this.#streams.delete(stream);
      this.#checkIdle();
      // Its credit may be back.
      this.#supply();
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
    const stream = this.#adopt(native);
    if (this.#incoming.push(stream)) return;
    stream.reader.cancel(StreamCode.Busy);
    stream.writer.abort(StreamCode.Busy);
  }

  /** Gives streams to those who wait, as far as there is credit. */
  #supply(): void {
    while (this.#waiters.length > 0 && this.#end === undefined && !this.#draining) {
      const spare = this.#spare;
      if (spare === undefined) {
        this.guard.run(() => this.#create());
        return;
      }
      // Ahead of the handshake the runtime keeps the bytes until it may send them.
      if (spare.pending && this.#earlyData !== "pending") {
        this.#lookForCredit();
        return;
      }
      this.#spare = undefined;
      this.#creditLooks = 0;
      this.#waiters.shift()?.resolve(this.#adopt(spare));
    }
  }

  async #create(): Promise<void> {
    if (this.#creating) return;
    this.#creating = true;
    try {
      this.#spare = await this.session.createBidirectionalStream();
      this.#spare.closed.catch(() => {});
    } catch (cause) {
      const error = await this.verdict("no stream can be opened", 0, false, cause);
      this.#rejectWaiters(error);
    } finally {
      this.#creating = false;
    }
    this.#supply();
  }

  /** There is no event for credit that has come. */
  #lookForCredit(): void {
    const wait = this.#creditLooks++ < FREQUENT_LOOKS ? LOOK : RARE_LOOK;
    this.#creditTimer ??= this.#clock.setTimer(() => {
      this.#creditTimer = undefined;
      this.#supply();
    }, wait);
  }

  #lookAtBlocked(): void {
    this.#blockedTimer = undefined;
    for (const stream of this.#blocked) stream.look();
    if (this.#blocked.size > 0 && this.#end === undefined) {
      this.#blockedTimer = this.#clock.setTimer(() => this.#lookAtBlocked(), RARE_LOOK);
    }
  }

  #checkIdle(): void {
    if (this.#idleClose === undefined || this.#end !== undefined) return;
    this.#idleClose.busy = !this.#established || this.#streams.size > 0 || this.#waiters.length > 0;
  }

  #rejectWaiters(error: VortexError): void {
    for (const { reject } of this.#waiters.splice(0)) reject(error);
  }

  /**
   * Looks when something came last. The module does not tell a close of the peer from an idle timeout, and lets a connection live
   * on for a minute on which only this side sends.
   */
  #watchSilence(): void {
    const { settings, server } = this.#host;
    const clock = this.#clock;
    const { pktRecv } = this.session.stats;
    if (pktRecv !== this.#received) {
      this.#received = pktRecv;
      this.#lastReceived = clock.now();
    } else if (clock.now() - this.#lastReceived >= settings.idleTimeout) {
      this.#endHere(closing(StreamCode.None, ""), silentEnd(true, this.#established, server));
      return;
    }
    const next = settings.idleTimeout / IDLE_LOOKS;
    this.#idleTimer = clock.setTimer(() => this.#watchSilence(), next, { background: true });
  }

  #onClosed(cause: unknown): void {
    if (this.#end !== undefined) return;
    if (this.#ending !== undefined) {
      this.#finish(this.#ending);
      return;
    }
    const { settings, server } = this.#host;
    const clock = this.#clock;
    const silence = clock.now() - this.#lastReceived;
    const silent = silence >= settings.idleTimeout * (1 - 2 / IDLE_LOOKS);
    const used = this.#earlyData === "pending";
    this.#finish(sessionEnd(cause, { established: this.#established, used, server, silent }));
  }

  #endHere(config: CloseConfig, info: CloseInfo): void {
    if (this.#end !== undefined) return;
    this.#finish(info);
    if (!this.session.destroyed) this.session.destroy(undefined, config);
  }

  #finish(info: CloseInfo): void {
    this.#end = info;
    if (this.#idleClose !== undefined) this.#idleClose.busy = true;
    if (this.#earlyData === "pending") {
      // A peer that refuses early data says so before its application can say anything.
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

  #closedWithin(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const clock = this.#clock;
      // In two halves: a process that was held up looks at what has come meanwhile before it judges.
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

function closing(code: number, reason: string): CloseConfig {
  return { code, type: "application", reason };
}

function remoteOf({ path }: NativeSession): Address {
  return { host: path?.remote?.address ?? "", port: path?.remote?.port ?? 0 };
}

function closedHere(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}

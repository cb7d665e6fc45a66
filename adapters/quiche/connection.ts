import { abortedError, VortexError } from "../../src/errors.ts";
import type { Clock, Timer } from "../../src/runtime.ts";
import { type Address, splitZone } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteStream,
  type CloseInfo,
  type Connection,
  type EarlyData,
  StreamCode,
} from "../../src/transport/transport.ts";
import type { Guard } from "../shared/guard.ts";
import { isLinkLocal } from "../shared/local-address.ts";
import { refusalCode } from "../shared/quic-errors.ts";
import { releaseMemory } from "../shared/release-memory.ts";
import type { SendRing } from "./datagrams.ts";
import { connectionError } from "./errors.ts";
import type { NativeConnection, Quiche } from "./native.ts";
import type { PathMtu, PathMtuStats } from "./path-mtu.ts";
import { QuicheStream } from "./stream.ts";

/**
 * Number of received datagrams after which this side processes them at once. With fewer datagrams,
 * it waits for a `setImmediate` callback. Bun may emit many "message" events before it runs that
 * callback.
 */
const MAX_BATCH_DATAGRAMS = 32;
/** Number of received bytes between two checks of {@link ConnectionHost.abuseBudget}. */
const ABUSE_CHECK_INTERVAL_BYTES = 64 * 1024;

/**
 * Maximum number of pending reads for which quiche is asked for data stream by stream. With more
 * pending reads, quiche's list of readable streams is requested instead.
 */
const MAX_POLLED_READERS = 8;
/**
 * Maximum time in ms for which ACK, MAX_DATA and MAX_STREAM_DATA frames are delayed, so that one
 * packet carries several.
 */
const MAX_ACK_DELAY_MS = 1;

/**
 * Maximum number of ended streams for which a graceful close waits until their bytes are
 * acknowledged. Beyond it, the oldest stream is no longer checked, since the peer has long
 * acknowledged its bytes.
 */
const MAX_TRACKED_FINISHED = 4096;

const NO_BYTES = new Uint8Array(0);
const SCRATCH_BUFFER = new Uint8Array(64 * 1024);

/**
 * Number of attempts to free a stream that either side reset or stopped. After them, the stream
 * counts as leaked and is ignored.
 */
const MAX_REAP_ATTEMPTS = 1000;
/**
 * Time in ms that `openStream` waits for stream credit (MAX_STREAMS) from the peer while no stream
 * is open. Without credit in this time, `openStream` fails and the connection counts as lost.
 */
const CREDIT_TIMEOUT_MS = 1000;
/**
 * Minimum number of bytes that each waiting stream may send at a time, if the congestion window
 * permits.
 */
const MIN_SHARE_BYTES = 32 * 1024;
/**
 * Number of bytes in a packet besides stream data: packet header, connection ID, frame header and
 * AEAD tag.
 */
const PACKET_OVERHEAD_BYTES = 64;

/** Progress in freeing a stream that either side reset or stopped. */
interface DiscardedStream {
  /** Number of attempts to free the stream so far. */
  attempts: number;
  /**
   * True once this side has sent a reset for the stream. The acknowledgement of the reset makes
   * quiche free the stream.
   */
  resetSent: boolean;
}

/**
 * Socket address in quiche's format. The host is an IPv4 address, or an IPv6 address without a zone
 * (RFC 4007).
 */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Settings and callbacks of a {@link QuicheConnection}, which differ between client and server. */
export interface ConnectionHost {
  readonly quiche: Quiche;
  readonly clock: Clock;
  /**
   * Wraps the event callbacks of this connection. If a callback throws, the guard ends the
   * connection by {@link QuicheConnection.fail}.
   */
  readonly guard: Guard;
  readonly ring: SendRing;
  readonly pathMtu: PathMtu;
  readonly local: HostPort;
  /** True if the UDP socket is connected to the peer, so datagrams are sent without an address. */
  readonly connected: boolean;
  /**
   * True to keep the state of an ended connection until quiche's closing or draining period is over
   * (RFC 9000, section 10.2). Until then, this side still answers the peer's packets. False to free
   * the state at once. True on a server.
   */
  readonly drains: boolean;
  /**
   * Keep-alive interval in ms: if nothing is received for this time, this side sends a PING frame.
   * Undefined to send no PING frames.
   */
  readonly keepAlive: number | undefined;
  /** Number of received datagrams after which an acknowledgement is sent without delay. */
  readonly ackThreshold: number;
  /** Number of bytes read by the application after which a window update is sent without delay. */
  readonly windowThreshold: number;
  /**
   * Maximum number of bytes that the peer may send in excess of legitimate use. If the peer exceeds
   * this number, the connection is aborted. Default: no limit.
   *
   * Legitimate use is twice the bytes that the application has read, plus half the bytes that this
   * side has sent, which the peer must acknowledge. The budget refills by 4 bytes/ms.
   */
  readonly abuseBudget?: number;
  /**
   * Called when early data (0-RTT) can be exchanged before the handshake is complete. If it throws,
   * the connection is refused with that error.
   */
  onEarlyData(connection: QuicheConnection): void;
  /**
   * Called when the handshake is complete. If it throws, the connection is refused with that error.
   */
  onEstablished(connection: QuicheConnection): void;
  /**
   * Keeps the process alive if `busy` is true, and lets it exit otherwise. A connection is busy
   * during its handshake and while it has open streams. Undefined on a server, whose socket is
   * shared.
   */
  setBusy?(busy: boolean): void;
  /**
   * Adds detail to a close for which quiche reports only an error code. Default: returns `info`
   * unchanged.
   */
  describeClose?(info: CloseInfo): CloseInfo;
  /** Called when the connection has ended, with the error and the reason in `info`. */
  onEnded(connection: QuicheConnection, info: CloseInfo): void;
  /**
   * Called when the state of an ended connection can be freed. With {@link ConnectionHost.drains},
   * this is after the closing or draining period (RFC 9000, section 10.2), otherwise at once.
   */
  onTerminated(connection: QuicheConnection): void;
}

/**
 * QUIC connection on top of quiche, which does no I/O itself. This class passes datagrams, timeouts
 * and stream data to quiche, and sends the resulting packets.
 *
 * `receive` passes each received datagram to quiche. All other work happens in `#flush`, once for
 * many datagrams and calls: it completes reads, passes pending writes to quiche and sends packets.
 * Acknowledgements and window updates are delayed, so that they share packets with other frames.
 * Otherwise quiche would send a packet for each received datagram.
 *
 * Each packet costs one `recv` or `send` call of the binding and nothing else. ARCHITECTURE.md
 * gives measurements.
 */
export class QuicheConnection implements Connection {
  readonly protocol = "quic";
  readonly remote: Address;
  readonly native: NativeConnection;
  readonly closed: Promise<CloseInfo>;
  readonly ready: Promise<void>;
  readonly #host: ConnectionHost;
  readonly #clock: Clock;
  /**
   * Runs `#flush`, which processes received datagrams and sends packets, under the connection's
   * guard.
   */
  readonly #flushNow: () => void;
  /**
   * Runs `#flush`, which processes received datagrams and sends packets, under the connection's
   * guard. Does nothing if `#flush` has already run since it was scheduled.
   */
  readonly #flushIfDue: () => void;
  readonly #server: boolean;
  readonly #streams = new Map<number, QuicheStream>();
  /** IDs of streams with a pending read. */
  readonly #waitingReaders = new Set<number>();
  /** IDs of streams with bytes to pass to quiche, in round-robin order. */
  readonly #blockedWriters = new Set<number>();
  readonly #incoming = new AsyncQueue<ByteStream>();
  readonly #creditWaiters: (() => void)[] = [];
  /**
   * IDs of streams that the peer has opened only implicitly, by using a higher ID (RFC 9000,
   * section 2.1). No data has arrived on them yet.
   */
  readonly #skippedRemote = new Set<number>();
  /** Streams that either side reset or stopped, and that quiche has not freed yet, by stream ID. */
  readonly #discarded = new Map<number, DiscardedStream>();
  /**
   * IDs of streams whose sending direction has ended without a reset. The peer may not have
   * acknowledged their last bytes yet.
   */
  readonly #finished = new Set<number>();
  #recvInfo: { readonly to: HostPort; readonly from: HostPort };
  /** Source address of the peer's latest datagram, as the socket reports it. */
  #source: Address;
  /**
   * Latest zone (RFC 4007) of the peer's link-local IPv6 address, such as `%eth0`, or an empty
   * string. The socket requires the zone, and quiche rejects it.
   */
  #zone = "";
  #nextLocal: number;
  #nextRemote: number;
  /** Number of datagrams received since `#flush` last ran. */
  #unflushed = 0;
  /** Memory of the datagrams received since `#flush` last ran. The next run frees this memory. */
  #receivedBuffers: ArrayBuffer[] = [];
  /** Number of bytes received since the last check of {@link ConnectionHost.abuseBudget}. */
  #uncheckedBytes = 0;
  /** Number of stream bytes that the application has read from this connection. */
  #totalRead = 0;
  /**
   * Remaining abuse budget in bytes (`left`). The other fields are the byte counters and the time
   * in ms at the last check of the abuse budget.
   */
  #abuseState: { left: number; recv: number; read: number; sent: number; at: number };
  /** Number of datagrams received since this side last sent packets. */
  #unacknowledged = 0;
  /** Number of bytes that the application has read since this side last sent packets. */
  #readSinceSend = 0;
  /**
   * True if the next run of `#flush` must send packets. False if at most acknowledgements and
   * window updates are pending, which may wait.
   */
  #sendDue = true;
  #ackTimer: Timer | undefined;
  /**
   * Value of the last call of {@link ConnectionHost.setBusy}. Initially true, as a new socket keeps
   * the process alive.
   */
  #busy = true;
  /**
   * Number of stream bytes passed to quiche since a datagram was last received. quiche updates the
   * free congestion window only when a datagram arrives.
   */
  #writtenSinceReceive = 0;
  #scheduled = false;
  #established = false;
  #earlyData: EarlyData = "none";
  #closing = false;
  #terminated = false;
  #closeInfo: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #resolveReady: () => void = () => {};
  #rejectReady: (error: VortexError) => void = () => {};
  #timer: Timer | undefined;
  #timerAt = 0;
  #keepAliveTimer: Timer | undefined;
  #lastReceived: number;
  /** Callbacks that the next run of `#flush` calls once. */
  #flushWaiters: (() => void)[] = [];

  /**
   * @param remote address of the peer for the application: the dialled address on a client, the
   * source address on a server
   * @param peer IP address and port of the peer, as the socket reports them
   */
  constructor(
    native: NativeConnection,
    remote: Address,
    peer: Address,
    server: boolean,
    host: ConnectionHost,
  ) {
    this.native = native;
    this.remote = remote;
    this.#host = host;
    this.#clock = host.guard.over(host.clock);
    this.#flushNow = host.guard.wrap(() => this.#flush());
    this.#flushIfDue = host.guard.wrap(() => {
      if (this.#scheduled) this.#flush();
    });
    this.#server = server;
    this.#nextLocal = server ? 1 : 0;
    this.#nextRemote = server ? 0 : 1;
    const [plain, zone] = splitZone(peer.host);
    this.#source = peer;
    this.#zone = zone;
    this.#recvInfo = { to: host.local, from: { host: plain, port: peer.port } };
    this.#lastReceived = this.#clock.now();
    this.#abuseState = {
      left: host.abuseBudget ?? 0,
      recv: 0,
      read: 0,
      sent: 0,
      at: this.#lastReceived,
    };
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.ready = new Promise((resolve, reject) => {
      this.#resolveReady = resolve;
      this.#rejectReady = reject;
    });
    this.ready.catch(() => {});
  }

  get resumed(): boolean {
    return this.#established && this.native.isResumed();
  }

  get earlyData(): EarlyData {
    return this.#earlyData;
  }

  get received(): number {
    return this.native.stats().recv;
  }

  /** True if the handshake was completed. Stays true after the connection has ended. */
  get established(): boolean {
    return this.#established;
  }

  // --- called by the application -----------------------------------------------------------------

  async openStream(options: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    const { signal } = options;
    let idleSince: number | undefined;
    for (;;) {
      if (signal?.aborted) throw abortedError(signal, "opening a stream");
      if (this.#closeInfo !== undefined) throw this.#closeInfo.error;
      if (this.#closing) throw closedLocally();
      if (this.native.peerStreamsLeftBidi() > 0) break;
      // The peer returns credit only for ended streams. With no stream left to end, it has
      // miscounted (see #fillWriters for a cause), and only a new connection helps.
      const now = this.#clock.now();
      idleSince = this.#streams.size === 0 ? (idleSince ?? now) : undefined;
      if (idleSince !== undefined && now - idleSince >= CREDIT_TIMEOUT_MS) {
        this.#closing = true;
        throw new VortexError(
          "ConnectionLost",
          `stream credit exhausted: the peer returned none within ${CREDIT_TIMEOUT_MS} ms ` +
            "with no stream open; dial again",
        );
      }
      await this.#waitForCredit(signal, idleSince === undefined ? undefined : CREDIT_TIMEOUT_MS);
    }
    const id = this.#nextLocal;
    this.#nextLocal += 4;
    // Uses up the credit now. The peer learns of the stream with its first byte.
    this.native.streamSend(id, NO_BYTES, false);
    return this.#addStream(id);
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    if (this.#closeInfo !== undefined) return;
    this.#closing = true;
    this.#incoming.end();
    const grace = options.grace ?? 5000;
    if (grace > 0 && this.#established) await this.#waitForDelivery(grace);
    this.abort(StreamCode.None, "");
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedLocally()): void {
    if (this.#closeInfo !== undefined) return;
    this.#closeNative(true, code, reason);
    this.#finish({ code, reason, remote: false, error });
  }

  /**
   * Ends the connection during its handshake, by a CONNECTION_CLOSE frame with a transport error
   * code (RFC 9000, section 20.1). Pending calls reject with `error`.
   */
  refuse(code: number, error: VortexError): void {
    if (this.#closeInfo !== undefined) return;
    // quiche sends the close in the latest packet number space. The client can decrypt it only
    // after the handshake flight before it.
    this.#send();
    this.#closeNative(false, code, "");
    this.#finish({ code, reason: error.message, remote: false, error });
  }

  // --- called by the socket ----------------------------------------------------------------------

  /**
   * Passes one received datagram to quiche. Never throws, whatever the datagram contains.
   *
   * @param host source address with its IPv6 zone, if any; undefined if the socket is connected
   * @param port source port; undefined if the socket is connected
   */
  receive(datagram: Uint8Array, host?: string, port?: number): void {
    if (this.#terminated) return;
    if (host !== undefined && port !== undefined) this.#updatePeerAddress(host, port);
    try {
      this.native.recv(datagram, this.#recvInfo);
    } catch {
      // For a fatal error quiche has closed the connection, which #flush notices. Packets of other
      // connections and unauthenticated packets are dropped (RFC 9000, section 5.2).
    }
    // Only a datagram with a separate ArrayBuffer can be released.
    if (datagram.buffer.byteLength === datagram.length)
      this.#receivedBuffers.push(datagram.buffer as ArrayBuffer);
    this.#unflushed++;
    this.#uncheckedBytes += datagram.length;
    if (this.#unflushed >= MAX_BATCH_DATAGRAMS) this.#flushNow();
    else this.#scheduleFlush();
  }

  /**
   * Ends the connection at once, without a CONNECTION_CLOSE frame. Used when the socket or an event
   * callback has failed. Pending calls reject with `error`.
   */
  fail(error: VortexError): void {
    this.#finish({ code: 0, reason: error.message, remote: false, error });
    this.#terminate();
  }

  /**
   * Starts the handshake on a client.
   *
   * @param session TLS session to resume; undefined for a full handshake. If quiche rejects the
   * session, a full handshake follows.
   */
  start(session: Uint8Array | undefined): void {
    if (session !== undefined) {
      try {
        this.native.setSession(session);
      } catch {
        // quiche rejects the session: falls back to a full handshake.
      }
    }
    this.#flush();
    // quiche knows only after the first packet whether the session permits early data.
    if (session !== undefined && this.#closeInfo === undefined) this.#advanceHandshake();
  }

  /**
   * Schedules a run of `#flush` after the current batch of events, in which packets are sent.
   * Repeated calls cause a single run.
   */
  schedule(): void {
    this.#sendDue = true;
    this.#scheduleFlush();
  }

  /**
   * Schedules a run of `#flush` after the current batch of events. That run sends packets only if
   * they are due. Repeated calls cause a single run.
   */
  #scheduleFlush(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#flushIfDue);
  }

  // --- called by streams -------------------------------------------------------------------------

  /** Error with which the connection ended, or undefined while the connection is open. */
  get endError(): VortexError | undefined {
    return this.#closeInfo?.error;
  }

  /**
   * Records that the application has read `length` bytes of a stream. The resulting window update
   * is sent at once when {@link ConnectionHost.windowThreshold} is reached. Otherwise it is sent
   * after at most {@link MAX_ACK_DELAY_MS}.
   */
  onRead(length: number): void {
    this.#totalRead += length;
    this.#readSinceSend += length;
    if (this.#readSinceSend >= this.#host.windowThreshold) this.schedule();
    else this.#scheduleSend();
  }

  /**
   * Adds a stream to, or removes it from, the set of streams with a pending read.
   *
   * @param waits true if the stream has a pending read
   */
  setReading(id: number, waits: boolean): void {
    if (waits) this.#waitingReaders.add(id);
    else this.#waitingReaders.delete(id);
  }

  /**
   * Adds a stream to, or removes it from, the set of streams with bytes to pass to quiche.
   *
   * @param waits true if the stream has such bytes, which also schedules sending
   */
  setWriting(id: number, waits: boolean): void {
    if (waits) {
      this.#blockedWriters.add(id);
      this.schedule();
    } else {
      this.#blockedWriters.delete(id);
    }
  }

  /**
   * Removes a stream after both of its directions have ended.
   *
   * @param discarded true if either side reset or stopped the stream. Then this connection helps
   * quiche to free the stream.
   */
  forget(id: number, discarded: boolean): void {
    this.#streams.delete(id);
    this.#updateBusy();
    this.#blockedWriters.delete(id);
    this.#waitingReaders.delete(id);
    // Calls that wait for credit check again: with no stream left, none may come back.
    if (this.#streams.size === 0) for (const wake of this.#creditWaiters.splice(0)) wake();
    if (discarded) {
      this.#discarded.set(id, { attempts: 0, resetSent: false });
    } else {
      this.#finished.add(id);
      // Bounded, since asking quiche whether it has freed a stream costs an exception per stream.
      const [oldest] = this.#finished;
      if (oldest !== undefined && this.#finished.size > MAX_TRACKED_FINISHED)
        this.#finished.delete(oldest);
    }
    this.#scheduleFlush();
  }

  // --- internals ---------------------------------------------------------------------------------

  #addStream(id: number): QuicheStream {
    const stream = new QuicheStream(id, this, this.#host.quiche, this.#clock);
    this.#streams.set(id, stream);
    this.#updateBusy();
    return stream;
  }

  #updateBusy(): void {
    const busy = !this.#established || this.#streams.size > 0;
    if (busy === this.#busy || this.#terminated) return;
    this.#busy = busy;
    this.#host.setBusy?.(busy);
  }

  readonly #stats = (): PathMtuStats => {
    const { lost, lostBytes } = this.native.stats();
    const { rtt = 0, cwnd = 0, deliveryRate = 0 } = this.native.pathStats()[0] ?? {};
    return { lost, lostBytes, rtt, cwnd, deliveryRate };
  };

  /**
   * Processes the datagrams received since its last run: completes reads and passes pending writes
   * to quiche. Then sends packets if they are due, and sets the timer for quiche's next timeout.
   */
  #flush(): void {
    this.#scheduled = false;
    if (this.#terminated) return;
    const received = this.#unflushed > 0;
    if (received) {
      releaseMemory(this.#receivedBuffers);
      this.#receivedBuffers = [];
      this.#unacknowledged += this.#unflushed;
      this.#unflushed = 0;
      this.#lastReceived = this.#clock.now();
      this.#host.pathMtu.onReceived(this.#lastReceived, this.#stats);
      this.#writtenSinceReceive = 0;
    }
    if (this.#closeInfo === undefined) this.#progress(received);
    if (this.#uncheckedBytes >= ABUSE_CHECK_INTERVAL_BYTES) this.#enforceAbuseBudget();
    if (this.#terminated) return;
    if (this.#sendDue || !this.#established || this.#unacknowledged >= this.#host.ackThreshold)
      this.#send();
    else this.#scheduleSend();
    this.#armTimer();
    if (this.#flushWaiters.length > 0) for (const wake of this.#flushWaiters.splice(0)) wake();
    if (this.native.isClosed()) this.#onNativeClosed();
  }

  /**
   * Aborts the connection if the peer has sent more bytes than {@link ConnectionHost.abuseBudget}
   * permits.
   *
   * The memory for handshake fragments, path challenges and retired connection IDs has no limit in
   * quiche 0.18 (CVE-2024-1765, CVE-2023-6193, CVE-2024-1410). Without this check, a peer could
   * make this side allocate memory for every byte that the peer sends. Only authenticated packets
   * count, so third parties cannot end a connection.
   */
  #enforceAbuseBudget(): void {
    this.#uncheckedBytes = 0;
    const { abuseBudget } = this.#host;
    if (abuseBudget === undefined || this.#closeInfo !== undefined) return;
    const { recvBytes: recv, sentBytes: sent } = this.native.stats();
    const before = this.#abuseState;
    const [read, at] = [this.#totalRead, this.#clock.now()];
    const earned = 2 * (read - before.read) + (sent - before.sent) / 2 + 4 * (at - before.at);
    const left = Math.min(abuseBudget, before.left + earned - (recv - before.recv));
    this.#abuseState = { left, recv, read, sent, at };
    if (left >= 0) return;
    const reason = "abuse budget exceeded";
    this.abort(
      StreamCode.Violation,
      reason,
      new VortexError(
        "ProtocolViolation",
        `${reason}: expected at most ${abuseBudget} bytes beyond legitimate use, ` +
          `got ${Math.ceil(abuseBudget - left)}`,
      ),
    );
  }

  #progress(received: boolean): void {
    if (!this.#established) this.#advanceHandshake();
    if (received) {
      if (this.native.isDraining() || this.native.isClosed()) {
        this.#onNativeClosed();
        return;
      }
      if (this.#established || this.#earlyData === "pending") this.#wakeReaders();
      if (this.#discarded.size > 0) this.#reapDiscarded();
      if (this.#creditWaiters.length > 0) {
        for (const wake of this.#creditWaiters.splice(0, this.native.peerStreamsLeftBidi())) wake();
      }
    }
    if (this.#blockedWriters.size > 0) this.#fillWriters();
  }

  /**
   * Completes pending reads for which data has arrived, and announces new streams of the peer.
   *
   * A request for quiche's list of readable streams costs as much as twenty other calls of the
   * binding. So it is made only on a server, where the list may contain new streams, or with more
   * than {@link MAX_POLLED_READERS} pending reads.
   */
  #wakeReaders(): void {
    if (
      (this.#server || this.#waitingReaders.size > MAX_POLLED_READERS) &&
      this.native.isReadable()
    ) {
      for (const id of this.native.readable()) this.#onReadable(id);
    } else {
      for (const id of this.#waitingReaders) this.#streams.get(id)?.onReadable();
    }
    for (const id of this.#waitingReaders) {
      // quiche 0.18 does not list a stream as readable when its FIN arrives without new bytes.
      if (this.native.streamFinished(id)) this.#streams.get(id)?.onFinished();
    }
  }

  /**
   * Passes pending writes to quiche, and shares the free congestion window among their streams in
   * round-robin order.
   *
   * Passes only as many bytes as fit into the packets that `#send` can send now. The other bytes
   * wait. This avoids a bug of quiche 0.18: if the peer stops a stream that has unsent bytes in
   * quiche, the stream is never freed. Its stream credit is then lost. The cause is that
   * `SendBuf::reset` marks these bytes as acknowledged, beyond the final size.
   */
  #fillWriters(): void {
    const room = new Map<QuicheStream, number>();
    let budget = 0;
    for (const id of this.#blockedWriters) {
      const stream = this.#streams.get(id);
      if (stream === undefined) continue;
      try {
        const capacity = this.native.streamCapacity(id);
        if (capacity > 0) room.set(stream, capacity);
        // Each capacity is the minimum of the stream's and the connection's, so the maximum comes
        // closest to the connection's.
        budget = Math.max(budget, capacity);
      } catch (error) {
        stream.stopWriting(error);
      }
    }
    // quiche updates the window when a packet arrives, so bytes written since then count too.
    const window = budget + this.#writtenSinceReceive;
    const payload = Math.min(this.native.maxSendUdpPayloadSize(), this.#host.pathMtu.limit);
    const packet = payload - PACKET_OVERHEAD_BYTES;
    budget -= Math.ceil(window / packet) * PACKET_OVERHEAD_BYTES;
    // In whole packets, since quiche starts another packet for a remainder.
    const share = Math.ceil(Math.max(MIN_SHARE_BYTES, budget / room.size) / packet) * packet;
    for (const [stream, capacity] of room) {
      if (budget <= 0) return;
      const taken = stream.onWritable(Math.min(share, budget, capacity));
      budget -= taken;
      this.#writtenSinceReceive += taken;
      this.#sendDue = true;
      // Moves the stream to the end of the round-robin order.
      if (this.#blockedWriters.delete(stream.id)) this.#blockedWriters.add(stream.id);
    }
  }

  /**
   * Checks in quiche whether the handshake is complete or early data is possible, and calls the
   * matching callback of {@link ConnectionHost}. If the callback throws, refuses the connection.
   */
  #advanceHandshake(): void {
    try {
      if (this.native.isEstablished()) {
        this.#host.onEstablished(this);
        this.#established = true;
        // A server may resume the session and still refuse its early data. quiche does not report
        // that, and sends the bytes again, so it counts as accepted here.
        if (this.#earlyData === "pending")
          this.#earlyData = this.native.isResumed() ? "accepted" : "refused";
        this.#resolveReady();
        this.#updateBusy();
        this.#keepAlive();
      } else if (this.#earlyData === "none" && this.native.isInEarlyData()) {
        this.#host.onEarlyData(this);
        this.#earlyData = "pending";
      }
    } catch (error) {
      const failure = VortexError.from(error, "HandshakeFailed");
      this.refuse(refusalCode(failure), failure);
    }
  }

  #onReadable(id: number): void {
    let stream = this.#streams.get(id);
    if (stream === undefined) {
      const remote = id % 2 === (this.#server ? 0 : 1);
      if (!remote || this.#discarded.has(id) || !this.#claimRemoteId(id)) return;
      stream = this.#addStream(id);
      if (!this.#incoming.push(stream)) {
        stream.reader.cancel(StreamCode.Busy);
        stream.writer.abort(StreamCode.Busy);
        return;
      }
    }
    stream.onReadable();
  }

  /**
   * Returns true if the peer has not used the stream ID `id` before, and records the use. Streams
   * may arrive in any order.
   */
  #claimRemoteId(id: number): boolean {
    if (id < this.#nextRemote) return this.#skippedRemote.delete(id);
    for (let skipped = this.#nextRemote; skipped < id; skipped += 4)
      this.#skippedRemote.add(skipped);
    this.#nextRemote = id + 4;
    return true;
  }

  /**
   * Helps quiche to free streams that either side reset or stopped. Until the FIN of such a stream
   * was read or a later frame is acknowledged, quiche keeps the stream and its credit.
   *
   * This method reads up to the FIN. If reading was shut down, it sends a reset instead. The
   * acknowledgement of the reset makes quiche free the stream.
   */
  #reapDiscarded(): void {
    for (const [id, discarded] of this.#discarded) {
      try {
        this.native.streamRecv(id, SCRATCH_BUFFER);
      } catch {
        // The peer reset the stream, or quiche has freed it.
      }
      if (!discarded.resetSent && this.native.streamFinished(id)) {
        discarded.resetSent = true;
        try {
          this.native.streamShutdown(id, this.#host.quiche.Shutdown.Write, StreamCode.Cancelled);
        } catch {
          // Freed in the meantime.
        }
      }
      discarded.attempts++;
      if (discarded.attempts > MAX_REAP_ATTEMPTS) this.#discarded.delete(id);
    }
    this.#pruneFreed(this.#discarded);
  }

  /**
   * Removes from `ids` the streams that quiche has freed. A stream is freed only when the peer has
   * acknowledged all its data.
   */
  #pruneFreed(ids: Set<number> | Map<number, DiscardedStream>): void {
    for (const id of ids.keys()) {
      try {
        this.native.streamCapacity(id);
      } catch (error) {
        if (error instanceof Error && error.message.startsWith("InvalidStreamState"))
          ids.delete(id);
      }
    }
  }

  /**
   * Sets a timer that sends pending acknowledgements and window updates after
   * {@link MAX_ACK_DELAY_MS}. Without effect if other packets have carried them by then.
   */
  #scheduleSend(): void {
    if (this.#unacknowledged === 0 && this.#readSinceSend === 0) return;
    // Not cancelled by an earlier send: one timer serves many datagrams.
    this.#ackTimer ??= this.#clock.setTimer(() => {
      this.#ackTimer = undefined;
      if (this.#unacknowledged === 0 && this.#readSinceSend === 0) return;
      this.#sendDue = true;
      this.#flush();
    }, MAX_ACK_DELAY_MS);
  }

  #send(): void {
    this.#sendDue = false;
    this.#unacknowledged = 0;
    this.#readSinceSend = 0;
    const { ring, pathMtu, connected } = this.#host;
    ring.rewind();
    for (;;) {
      let packet: ReturnType<NativeConnection["send"]>;
      const buffer = ring.current;
      const { limit } = pathMtu;
      try {
        // The length of the buffer limits the packet.
        packet = this.native.send(limit < buffer.length ? buffer.subarray(0, limit) : buffer);
      } catch {
        // The connection has failed; #flush reads the reason from quiche's state.
        return;
      }
      if (packet === null) break;
      const [length, { to }] = packet;
      if (connected) ring.send(length);
      else ring.send(length, to.port, this.#withZone(to.host));
      pathMtu.onSent(length, this.#clock, this.#stats);
    }
  }

  /**
   * Sets the timer for quiche's next timeout, such as loss recovery or the idle timeout. A timer
   * that is already set for an earlier time stays. When that timer fires, it sets the next timer.
   *
   * The timer does not keep the process alive. The socket does that while the connection is busy.
   */
  #armTimer(): void {
    if (this.#terminated) return;
    const timeout = this.native.timeout();
    if (timeout === null) {
      this.#timer?.cancel();
      this.#timer = undefined;
      return;
    }
    const at = this.#clock.now() + timeout;
    if (this.#timer !== undefined && this.#timerAt <= at) return;
    this.#timer?.cancel();
    this.#timerAt = at;
    // quiche truncates to whole ms: without the extra one the timer would fire just too early.
    this.#timer = this.#clock.setTimer(() => this.#onTimer(), timeout + 1, { background: true });
  }

  #onTimer(): void {
    this.#timer = undefined;
    this.#sendDue = true;
    const left = this.native.timeout();
    if (left !== null && left <= 0) {
      this.native.onTimeout();
      this.#host.pathMtu.onPto(this.#stats);
    }
    this.#flush();
  }

  #onNativeClosed(): void {
    if (this.#closeInfo === undefined) {
      const info = connectionError(this.native, this.#established, this.#server);
      this.#finish(this.#host.describeClose?.(info) ?? info);
    }
    if (this.native.isClosed()) this.#terminate();
  }

  #closeNative(application: boolean, code: number, reason: string): void {
    try {
      this.native.close(application, code, new TextEncoder().encode(reason));
    } catch {
      // Already closed.
    }
    this.#send();
    this.#armTimer();
  }

  #finish(info: CloseInfo): void {
    if (this.#closeInfo !== undefined) return;
    this.#closeInfo = info;
    if (this.#earlyData === "pending") this.#earlyData = "refused";
    this.#keepAliveTimer?.cancel();
    this.#incoming.end();
    const inOrder = info.remote && info.code === 0;
    for (const stream of [...this.#streams.values()]) stream.fail(info.error, inOrder);
    this.#streams.clear();
    this.#blockedWriters.clear();
    this.#waitingReaders.clear();
    for (const wake of this.#creditWaiters.splice(0)) wake();
    for (const wake of this.#flushWaiters.splice(0)) wake();
    this.#rejectReady(info.error);
    this.#resolveClosed(info);
    this.#host.onEnded(this, info);
    if (!this.#host.drains) this.#terminate();
  }

  #terminate(): void {
    if (this.#terminated) return;
    this.#terminated = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#ackTimer?.cancel();
    this.#host.onTerminated(this);
  }

  /**
   * Records the source address of a received datagram. The address changes after a NAT rebinding,
   * and quiche validates the new path.
   */
  #updatePeerAddress(host: string, port: number): void {
    if (this.#source.port === port && this.#source.host === host) return;
    this.#source = { host, port };
    const [plain, zone] = splitZone(host);
    // Kept when the peer moves to a global address, since its old path may still be in use.
    if (zone !== "") this.#zone = zone;
    this.#recvInfo = { to: this.#recvInfo.to, from: { host: plain, port } };
  }

  /**
   * Returns the address to send to: adds the peer's zone to a link-local IPv6 address, and returns
   * any other `host` unchanged.
   */
  #withZone(host: string): string {
    return this.#zone !== "" && isLinkLocal(host) ? host + this.#zone : host;
  }

  /**
   * Sends a PING frame if nothing was received for {@link ConnectionHost.keepAlive} ms, and sets
   * the timer for the next check. Does nothing if that interval is undefined.
   */
  #keepAlive(): void {
    const { keepAlive } = this.#host;
    const clock = this.#clock;
    if (keepAlive === undefined || this.#closeInfo !== undefined) return;
    const silent = clock.now() - this.#lastReceived;
    if (silent >= keepAlive) {
      this.native.sendAckEliciting();
      this.schedule();
    }
    const next = silent >= keepAlive ? keepAlive : keepAlive - silent;
    this.#keepAliveTimer = clock.setTimer(() => this.#keepAlive(), next, { background: true });
  }

  /**
   * Waits until the peer has acknowledged all bytes of the streams that this side has ended, for at
   * most `grace` ms.
   */
  async #waitForDelivery(grace: number): Promise<void> {
    const clock = this.#clock;
    const until = clock.now() + grace;
    for (;;) {
      for (const { id, writeEnded } of this.#streams.values())
        if (writeEnded) this.#finished.add(id);
      this.#pruneFreed(this.#finished);
      const left = until - clock.now();
      if (this.#finished.size === 0 || this.#closeInfo !== undefined || left <= 0) return;
      if (this.#blockedWriters.size === 0 && !this.#hasUnackedPackets(left)) return;
      await new Promise<void>((resolve) => {
        const timer = clock.setTimer(resolve, left);
        this.#flushWaiters.push(() => {
          timer.cancel();
          resolve();
        });
      });
    }
  }

  /**
   * Returns true if sent packets probably still wait for an acknowledgement. quiche does not report
   * this, so it is estimated from its next timeout.
   *
   * A timeout within `milliseconds` or a few round trips is that of loss recovery, which runs only
   * while packets are unacknowledged. All other timeouts of quiche are longer.
   */
  #hasUnackedPackets(milliseconds: number): boolean {
    const timeout = this.native.timeout();
    const rtt = this.native.pathStats()[0]?.rtt ?? 0;
    return timeout !== null && timeout <= Math.max(milliseconds, 16 * rtt + 1000);
  }

  /**
   * Resolves when the peer may have granted stream credit, when `signal` aborts, or after
   * `milliseconds`. If `milliseconds` is undefined, there is no time limit.
   */
  #waitForCredit(signal: AbortSignal | undefined, milliseconds: number | undefined): Promise<void> {
    return new Promise((resolve) => {
      const done = this.#host.guard.wrap(() => {
        timer?.cancel();
        signal?.removeEventListener("abort", done);
        const index = this.#creditWaiters.indexOf(done);
        if (index >= 0) this.#creditWaiters.splice(index, 1);
        resolve();
      });
      const timer =
        milliseconds === undefined ? undefined : this.#clock.setTimer(done, milliseconds);
      signal?.addEventListener("abort", done, { once: true });
      this.#creditWaiters.push(done);
    });
  }
}

function closedLocally(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}

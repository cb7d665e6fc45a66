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
import { isLinkLocal, splitZone } from "../shared/local-address.ts";
import { refusalCode } from "../shared/quic-errors.ts";
import { releaseMemory } from "../shared/release-memory.ts";
import type { SendRing } from "./datagrams.ts";
import { connectionError } from "./errors.ts";
import type { NativeConnection, Quiche } from "./native.ts";
import type { PathMtu, PathMtuStats } from "./path-mtu.ts";
import { QuicheStream } from "./stream.ts";

/**
 * Received datagrams that force a flush. Bun may emit many "message" events before it runs an
 * immediate.
 */
const MAX_BATCH_DATAGRAMS = 32;
/** Received bytes between two checks of {@link ConnectionHost.abuseBudget}. */
const ABUSE_CHECK_INTERVAL_BYTES = 64 * 1024;

/** Waiting readers up to which each is polled, instead of listing quiche's readable streams. */
const MAX_POLLED_READERS = 8;
/** Maximum delay of an acknowledgement or window update, in ms. */
const MAX_ACK_DELAY_MS = 1;

/**
 * Ended streams tracked for delivery, the most recent ones. The peer has long acknowledged the end
 * of any older stream.
 */
const MAX_TRACKED_FINISHED = 4096;

const NO_BYTES = new Uint8Array(0);
const SCRATCH_BUFFER = new Uint8Array(64 * 1024);

/** Attempts to free a discarded stream before it is taken for leaked. */
const MAX_REAP_ATTEMPTS = 1000;
/** Time without an open stream in which the peer must return stream credit, in ms. */
const CREDIT_TIMEOUT_MS = 1000;
/** Minimum bytes that a writer may send per turn, as long as the congestion window has room. */
const MIN_SHARE_BYTES = 32 * 1024;
/**
 * Bytes of a datagram besides stream data: packet header, connection id, frame header, AEAD tag.
 */
const PACKET_OVERHEAD_BYTES = 64;

/** Progress in freeing a stream that one side reset or stopped. */
interface DiscardedStream {
  /** Attempts so far. */
  attempts: number;
  /** True once a reset was sent, whose acknowledgement lets quiche free the stream. */
  resetSent: boolean;
}

/** Address in quiche's format: an IPv6 address has no zone. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Dependencies of a connection, which differ between client and server. */
export interface ConnectionHost {
  readonly quiche: Quiche;
  readonly clock: Clock;
  /** Wraps this connection's callbacks; an exception ends it by {@link QuicheConnection.fail}. */
  readonly guard: Guard;
  readonly ring: SendRing;
  readonly pathMtu: PathMtu;
  readonly local: HostPort;
  /** True if the UDP socket is connected, so that datagrams are sent without an address. */
  readonly connected: boolean;
  /**
   * True if packets are answered after the end, until quiche's closing or draining period is over
   * (RFC 9000, section 10.2), as a server should. If false, the connection terminates at once.
   */
  readonly drains: boolean;
  /** Keep-alive interval in ms: silence after which this side sends a PING. Undefined: no PINGs. */
  readonly keepAlive: number | undefined;
  /** Received datagrams after which an acknowledgement is sent without delay. */
  readonly ackThreshold: number;
  /** Read bytes after which a window update is sent without delay. */
  readonly windowThreshold: number;
  /**
   * Bytes that the peer may send beyond legitimate use. Twice the bytes read by the application and
   * half the bytes sent (which the peer acknowledges) count as legitimate. The budget refills by 4
   * bytes/ms. A peer that exceeds it is disconnected. Default: no limit.
   */
  readonly abuseBudget?: number;
  /** Called when requests arrive as early data. Throwing ends the connection with that error. */
  onEarlyData(connection: QuicheConnection): void;
  /** Called when the handshake is complete. Throwing ends the connection with that error. */
  onEstablished(connection: QuicheConnection): void;
  /** Keeps the process alive while `busy`. Absent where the socket outlives the connection. */
  setBusy?(busy: boolean): void;
  /** Adds detail to a close for which quiche has only an error code. Default: returns `info`. */
  describeClose?(info: CloseInfo): CloseInfo;
  /** Called when the connection has ended, for the reason in `info`. */
  onEnded(connection: QuicheConnection, info: CloseInfo): void;
  /** Called when the connection is terminated (RFC 9000, section 10.2): its state can be freed. */
  onTerminated(connection: QuicheConnection): void;
}

/**
 * QUIC connection: an event loop around one quiche connection.
 *
 * `receive` feeds datagrams in. Everything else happens in `#flush`, once for many datagrams and
 * calls: it wakes readers, fills blocked writers and sends. Acknowledgements and window updates are
 * delayed to travel with other frames, since quiche would otherwise send a packet for each received
 * datagram.
 *
 * A packet costs one `recv` or `send` call of the binding and nothing else; ARCHITECTURE.md has
 * figures.
 */
export class QuicheConnection implements Connection {
  readonly protocol = "quic";
  readonly remote: Address;
  readonly native: NativeConnection;
  readonly closed: Promise<CloseInfo>;
  readonly ready: Promise<void>;
  readonly #host: ConnectionHost;
  readonly #clock: Clock;
  /** Runs `#flush` under the guard. */
  readonly #flushNow: () => void;
  /** Runs `#flush` under the guard, unless another flush ran since it was scheduled. */
  readonly #flushIfDue: () => void;
  readonly #server: boolean;
  readonly #streams = new Map<number, QuicheStream>();
  /** Ids of streams with a pending read. */
  readonly #waitingReaders = new Set<number>();
  /** Ids of streams with a pending write, in round-robin order. */
  readonly #blockedWriters = new Set<number>();
  readonly #incoming = new AsyncQueue<ByteStream>();
  readonly #creditWaiters: (() => void)[] = [];
  /** Ids of remote streams that have not appeared yet, although a higher id has. */
  readonly #skippedRemote = new Set<number>();
  /** Streams reset or stopped by either side, until quiche has freed them. */
  readonly #discarded = new Map<number, DiscardedStream>();
  /** Streams that ended cleanly, whose last bytes the peer may not have acknowledged yet. */
  readonly #finished = new Set<number>();
  #recvInfo: { readonly to: HostPort; readonly from: HostPort };
  /** Peer address as the socket reports it. */
  #source: Address;
  /**
   * Latest zone of the peer's link-local address, or empty. The socket needs it; quiche rejects it.
   */
  #zone = "";
  #nextLocal: number;
  #nextRemote: number;
  /** Datagrams received since the last flush. */
  #unflushed = 0;
  /** Buffers of the datagrams received since the last flush, which the next flush releases. */
  #receivedBuffers: ArrayBuffer[] = [];
  /** Bytes received since the last check of {@link ConnectionHost.abuseBudget}. */
  #uncheckedBytes = 0;
  /** Bytes read by the application in total. */
  #totalRead = 0;
  /** Remaining abuse budget in bytes, with the counters and the time of the last check. */
  #abuseState: { left: number; recv: number; read: number; sent: number; at: number };
  /** Datagrams received since packets were last sent. */
  #unacknowledged = 0;
  /** Bytes read by the application since packets were last sent. */
  #readSinceSend = 0;
  /** True if the next flush must send: there is more than acknowledgements and window updates. */
  #sendDue = true;
  #ackTimer: Timer | undefined;
  /** Last value passed to {@link ConnectionHost.setBusy}. */
  #busy = true;
  /** Stream bytes passed to quiche since the last datagram was received. */
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
  /** Callbacks to run once after the next flush. */
  #flushWaiters: (() => void)[] = [];

  /**
   * @param remote address of the peer as the application gave it or sees it
   * @param peer source address of the peer's datagrams, as the socket reports it
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

  /** True from the end of the handshake on, also after the connection has ended. */
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

  /** Ends the connection with a transport or TLS error, before the application has seen it. */
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
   * Processes one received datagram. Never throws, whatever the datagram contains.
   *
   * @param host source address of an unconnected socket, with its zone
   * @param port source port of an unconnected socket
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

  /** Ends the connection at once, without a close frame: the socket or a callback failed. */
  fail(error: VortexError): void {
    this.#finish({ code: 0, reason: error.message, remote: false, error });
    this.#terminate();
  }

  /** Starts a client's handshake, and resumes `session` if given. */
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
   * Schedules a flush that sends, after the current batch of events. Repeated calls are coalesced.
   */
  schedule(): void {
    this.#sendDue = true;
    this.#scheduleFlush();
  }

  /** Schedules a flush, which sends only what is due. */
  #scheduleFlush(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#flushIfDue);
  }

  // --- called by streams -------------------------------------------------------------------------

  /** Error that the connection ended with; undefined while it is open. */
  get endError(): VortexError | undefined {
    return this.#closeInfo?.error;
  }

  /** Returns `length` bytes of flow-control credit to the peer. */
  onRead(length: number): void {
    this.#totalRead += length;
    this.#readSinceSend += length;
    if (this.#readSinceSend >= this.#host.windowThreshold) this.schedule();
    else this.#scheduleSend();
  }

  /** Registers or removes a stream with a pending read. */
  setReading(id: number, waits: boolean): void {
    if (waits) this.#waitingReaders.add(id);
    else this.#waitingReaders.delete(id);
  }

  /** Registers or removes a stream with a pending write. */
  setWriting(id: number, waits: boolean): void {
    if (waits) {
      this.#blockedWriters.add(id);
      this.schedule();
    } else {
      this.#blockedWriters.delete(id);
    }
  }

  /**
   * Removes a stream that has ended in both directions.
   *
   * @param discarded one side reset or stopped it, so quiche needs help to free it
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
   * Disconnects a peer that sends more bytes than any legitimate use explains.
   *
   * Handshake fragments, path challenges and retired ids have no bound in quiche 0.18
   * (CVE-2024-1765, CVE-2023-6193, CVE-2024-1410). A peer could thus take as much memory as it
   * sends bytes. Counts only authenticated packets, so that third parties cannot end a connection.
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
   * Delivers received data to waiting readers. quiche's list of readable streams costs as much as
   * twenty other calls of the binding. It is requested only when it may contain new streams, or
   * when many readers would be polled in vain.
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
   * Shares the free congestion window among the blocked writers, round-robin.
   *
   * Passes quiche only as much as the next #send puts on the wire, so packet overhead is
   * subtracted. The rest waits for the next flush. Otherwise, if the peer stops a stream with
   * unsent bytes, quiche 0.18 never frees it, and its credit is lost. Its `SendBuf::reset` marks
   * those bytes as acknowledged, beyond the final size.
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

  /** Detects the end of the handshake, and early data. */
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

  /** Returns true the first time a remote stream id is seen. Ids may arrive out of order. */
  #claimRemoteId(id: number): boolean {
    if (id < this.#nextRemote) return this.#skippedRemote.delete(id);
    for (let skipped = this.#nextRemote; skipped < id; skipped += 4)
      this.#skippedRemote.add(skipped);
    this.#nextRemote = id + 4;
    return true;
  }

  /**
   * Helps quiche to free discarded streams. It keeps such a stream, and its credit, until the FIN
   * has been read or a later frame of this side is acknowledged. Reads the FIN here. If reading was
   * shut down, sends a reset, whose acknowledgement makes quiche free the stream.
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
   * Removes the ids of streams that quiche has freed, which implies that all data is acknowledged.
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

  /** Schedules delayed acknowledgements and window updates, unless another send comes first. */
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
   * Arms the timer for quiche's next timeout. An earlier timer stays, and checks again when it
   * fires. It runs in the background: while the connection is busy, the socket keeps the process
   * alive.
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
   * Records the source of a datagram. It changes on NAT rebinding; quiche validates the new path.
   */
  #updatePeerAddress(host: string, port: number): void {
    if (this.#source.port === port && this.#source.host === host) return;
    this.#source = { host, port };
    const [plain, zone] = splitZone(host);
    // Kept when the peer moves to a global address, since its old path may still be in use.
    if (zone !== "") this.#zone = zone;
    this.#recvInfo = { to: this.#recvInfo.to, from: { host: plain, port } };
  }

  /** Returns `host` as the socket needs it: a link-local address with its zone. */
  #withZone(host: string): string {
    return this.#zone !== "" && isLinkLocal(host) ? host + this.#zone : host;
  }

  /** Sends a PING after `keepAlive` ms of silence, and sets the timer for the next check. */
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

  /** Waits until the peer has acknowledged all ended streams, for at most `grace` ms. */
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
   * Estimates whether sent packets await acknowledgement, within `milliseconds`. The evidence is a
   * loss-recovery timer of a few round trips: quiche has no other timer that short, and does not
   * report the packets. Streams are no evidence: quiche keeps them until their data is read.
   */
  #hasUnackedPackets(milliseconds: number): boolean {
    const timeout = this.native.timeout();
    const rtt = this.native.pathStats()[0]?.rtt ?? 0;
    return timeout !== null && timeout <= Math.max(milliseconds, 16 * rtt + 1000);
  }

  /** Resolves when stream credit may be available, on abort, or after `milliseconds`. */
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

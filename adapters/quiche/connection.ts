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

/** Datagrams that are taken in before packets go out, where the event loop does not come round by itself (Bun). */
const BATCH = 32;
/** Bytes between two looks at what a peer sends. */
const LOOK = 64 * 1024;

/** Readers that wait at a time, up to which each is looked after when something has come. */
const FEW_READERS = 8;
/** Milliseconds for which an acknowledgement may wait for more datagrams, or for something to travel with. */
const ACK_DELAY = 1;

/** Ended streams that are remembered, the latest; of those before, the other side has acknowledged the end long since. */
const FINISHED_KEPT = 4096;

const NO_BYTES = new Uint8Array(0);
const SCRATCH = new Uint8Array(64 * 1024);

/** Looks at a stream that was given up before it is taken for leaked. */
const MAX_LOOKS = 1000;
/** Milliseconds without an open stream in which stream credit has to come back. */
const CREDIT_GRACE = 1000;
/** Least number of bytes that a writer is given in one turn while there is room. */
const MIN_SHARE_BYTES = 32 * 1024;
/** Bytes of a datagram that are not stream data: header, connection id, frame header, authentication tag. */
const PACKET_OVERHEAD = 64;

/** What has been done about a stream that was given up. */
interface Discarded {
  looks: number;
  reset: boolean;
}

/** An address as quiche wants it: an IPv6 address without its zone. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Where a connection sends to and how it is known outside; the difference between a client's and a server's. */
export interface ConnectionHost {
  readonly quiche: Quiche;
  readonly clock: Clock;
  /** For the callbacks of this connection; it ends the connection by {@link QuicheConnection.fail}. */
  readonly guard: Guard;
  readonly ring: SendRing;
  readonly pathMtu: PathMtu;
  readonly local: HostPort;
  /** Whether the socket is connected, so that datagrams need no address. */
  readonly connected: boolean;
  /** Whether stray packets are answered for a while after the end, as a server should (RFC 9000, section 10.2). */
  readonly drains: boolean;
  /** Milliseconds between two signs of life that this side asks for, or undefined to ask for none. */
  readonly keepAlive: number | undefined;
  /** Datagrams after which they are acknowledged at once. */
  readonly ackThreshold: number;
  /** Bytes read after which the peer is told of the room at once. */
  readonly windowThreshold: number;
  /**
   * Bytes that the peer may have sent beyond those that were read, and beyond half as many as it was sent, which it acknowledges. Each
   * millisecond adds four. Default: no limit.
   */
  readonly abuseBudget?: number;
  /** Requests have come ahead of the handshake. A throw ends the connection with that error. */
  onEarlyData(connection: QuicheConnection): void;
  /** The handshake is over. A throw ends the connection with that error. */
  onEstablished(connection: QuicheConnection): void;
  /** Keeps the process alive while `busy`. Absent where the socket outlives the connection. */
  hold?(busy: boolean): void;
  /** Says more of an end that quiche has only a code for. Default: `info` itself. */
  explain?(info: CloseInfo): CloseInfo;
  /** The connection has ended, as `info` says. */
  onEnded(connection: QuicheConnection, info: CloseInfo): void;
  /** Nothing is left to do; the connection can be forgotten. */
  onTerminated(connection: QuicheConnection): void;
}

/**
 * The event loop around one quiche connection. Datagrams come in by `receive`; everything else happens in `#flush`, once
 * for many datagrams and calls: it wakes readers, gives blocked writers what room there is, and sends. What only tells the peer
 * how far this side is (acknowledgements, more room) waits a moment for company, since quiche would make a packet of it for each
 * datagram that comes in.
 *
 * Counted per packet there is one `recv` or `send` and nothing else; see ARCHITECTURE.md for what that is worth.
 */
export class QuicheConnection implements Connection {
  readonly protocol = "quic";
  readonly remote: Address;
  readonly native: NativeConnection;
  readonly closed: Promise<CloseInfo>;
  readonly ready: Promise<void>;
  readonly #host: ConnectionHost;
  readonly #clock: Clock;
  /** `#flush`, guarded; and the same unless another one came before it. */
  readonly #flushNow: () => void;
  readonly #flushIfDue: () => void;
  readonly #server: boolean;
  readonly #streams = new Map<number, QuicheStream>();
  /** Streams with a reader that waits. */
  readonly #reading = new Set<number>();
  /** Streams with a writer that waits, the next in turn first. */
  readonly #blocked = new Set<number>();
  readonly #incoming = new AsyncQueue<ByteStream>();
  readonly #creditWaiters: (() => void)[] = [];
  /** Streams of the other side that were skipped, since a later one came first. */
  readonly #skipped = new Set<number>();
  /** Streams that were given up by one side, until quiche has forgotten them. */
  readonly #discarded = new Map<number, Discarded>();
  /** Streams that ended in good order, which the other side may not have acknowledged yet. */
  readonly #finished = new Set<number>();
  #recvInfo: { readonly to: HostPort; readonly from: HostPort };
  /** Address of the peer, as the socket tells it. */
  #source: Address;
  /** Zone of the peer's link-local address, the latest; empty without one. Sockets need it, and quiche takes none. */
  #zone = "";
  #nextLocal: number;
  #nextRemote: number;
  /** Datagrams taken in since the last flush. */
  #unflushed = 0;
  /** Their memory. */
  #spent: ArrayBuffer[] = [];
  /** Bytes taken in since the last look at {@link ConnectionHost.abuseBudget}. */
  #unlooked = 0;
  /** Bytes that were read. */
  #handed = 0;
  /** How many bytes of no use there may still be, and what was counted at the last look. */
  #allowance: { left: number; recv: number; handed: number; sent: number; at: number };
  /** Datagrams taken in since packets were last made. */
  #unacknowledged = 0;
  /** Bytes read since then. */
  #read = 0;
  /** Whether there is more to say than how far this side is. */
  #urgent = true;
  #ackTimer: Timer | undefined;
  /** The last argument of {@link ConnectionHost.hold}. */
  #held = true;
  /** Bytes of streams handed to quiche since the last datagram came in. */
  #written = 0;
  #scheduled = false;
  #established = false;
  #earlyData: EarlyData = "none";
  #draining = false;
  #isGone = false;
  #end: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #resolveReady: () => void = () => {};
  #rejectReady: (error: VortexError) => void = () => {};
  #timer: Timer | undefined;
  #timerAt = 0;
  #keepAliveTimer: Timer | undefined;
  #lastReceived: number;
  /** Run after the next flush. */
  #flushed: (() => void)[] = [];

  /** @param peer where datagrams come from, as the socket tells it */
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
    this.#allowance = {
      left: host.abuseBudget ?? 0,
      recv: 0,
      handed: 0,
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

  /** The application can see this connection. */
  get established(): boolean {
    return this.#established;
  }

  // --- the application's side -------------------------------------------------------------------------------------

  async openStream(options: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    const { signal } = options;
    let idleSince: number | undefined;
    for (;;) {
      if (signal?.aborted) throw abortedError(signal, "opening a stream");
      if (this.#end !== undefined) throw this.#end.error;
      if (this.#draining) throw closedHere();
      if (this.native.peerStreamsLeftBidi() > 0) break;
      // Ended streams are what credit comes back from. With none open, and none coming back, the peer has lost count (see
      // #write for how), and only a new connection helps.
      const now = this.#clock.now();
      idleSince = this.#streams.size === 0 ? (idleSince ?? now) : undefined;
      if (idleSince !== undefined && now - idleSince >= CREDIT_GRACE) {
        this.#draining = true;
        throw new VortexError(
          "ConnectionLost",
          "the peer gives no more stream credit on this connection",
        );
      }
      await this.#creditOrAbort(signal, idleSince === undefined ? undefined : CREDIT_GRACE);
    }
    const id = this.#nextLocal;
    this.#nextLocal += 4;
    // Takes the credit now; the other side hears of the stream with its first byte.
    this.native.streamSend(id, NO_BYTES, false);
    return this.#adopt(id);
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    if (this.#end !== undefined) return;
    this.#draining = true;
    this.#incoming.end();
    const grace = options.grace ?? 5000;
    if (grace > 0 && this.#established) await this.#delivered(grace);
    this.abort(StreamCode.None, "");
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedHere()): void {
    if (this.#end !== undefined) return;
    this.#closeNative(true, code, reason);
    this.#finish({ code, reason, remote: false, error });
  }

  /** Ends the connection for a reason of TLS or of the transport, before the application has seen it. */
  refuse(code: number, error: VortexError): void {
    if (this.#end !== undefined) return;
    // quiche closes in the latest packet number space, which a client can read only after the flight before it.
    this.#send();
    this.#closeNative(false, code, "");
    this.#finish({ code, reason: error.message, remote: false, error });
  }

  // --- the network's side -----------------------------------------------------------------------------------------

  /** Takes a datagram in. Whatever it holds, this does not throw. */
  receive(datagram: Uint8Array, host?: string, port?: number): void {
    if (this.#isGone) return;
    if (host !== undefined && port !== undefined) this.#follow(host, port);
    try {
      this.native.recv(datagram, this.#recvInfo);
    } catch {
      // quiche has closed the connection if the error calls for it, and #flush sees that. A packet that is not for this
      // connection, or not authentic, is dropped (RFC 9000, section 5.2).
    }
    // Only where it is memory of its own.
    if (datagram.buffer.byteLength === datagram.length)
      this.#spent.push(datagram.buffer as ArrayBuffer);
    this.#unflushed++;
    this.#unlooked += datagram.length;
    if (this.#unflushed >= BATCH) this.#flushNow();
    else this.#scheduleFlush();
  }

  /** The socket failed for good. */
  fail(error: VortexError): void {
    this.#finish({ code: 0, reason: error.message, remote: false, error });
    this.#gone();
  }

  /** Starts the handshake of a client, with a session of the peer if there is one. */
  start(session: Uint8Array | undefined): void {
    if (session !== undefined) {
      try {
        this.native.setSession(session);
      } catch {
        // Not a session that quiche takes; the handshake does without.
      }
    }
    this.#flush();
    // Whether the session is good for early data shows when the first packet has been made.
    if (session !== undefined && this.#end === undefined) this.#advance();
  }

  /** Has `#flush` run, and send, once the present batch of events has been worked off. */
  schedule(): void {
    this.#urgent = true;
    this.#scheduleFlush();
  }

  #scheduleFlush(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#flushIfDue);
  }

  // --- the streams' side ------------------------------------------------------------------------------------------

  /** Why the connection ended, for streams that outlive it. */
  get endError(): VortexError | undefined {
    return this.#end?.error;
  }

  /** Bytes were read, so that the peer may send more. */
  onRead(length: number): void {
    this.#handed += length;
    this.#read += length;
    if (this.#read >= this.#host.windowThreshold) this.schedule();
    else this.#sendLater();
  }

  /** A reader waits, or does not any more. */
  setReading(id: number, waits: boolean): void {
    if (waits) this.#reading.add(id);
    else this.#reading.delete(id);
  }

  /** A writer waits, or does not any more. */
  setWriting(id: number, waits: boolean): void {
    if (waits) {
      this.#blocked.add(id);
      this.schedule();
    } else {
      this.#blocked.delete(id);
    }
  }

  /** Both directions of a stream are over for this side. */
  forget(id: number, discarded: boolean): void {
    this.#streams.delete(id);
    this.#hold();
    this.#blocked.delete(id);
    this.#reading.delete(id);
    // Those who wait for credit look again: with no stream left, none will come back.
    if (this.#streams.size === 0) for (const wake of this.#creditWaiters.splice(0)) wake();
    if (discarded) {
      this.#discarded.set(id, { looks: 0, reset: false });
    } else {
      this.#finished.add(id);
      // Asking quiche which of them it has forgotten costs an exception each.
      const [oldest] = this.#finished;
      if (oldest !== undefined && this.#finished.size > FINISHED_KEPT)
        this.#finished.delete(oldest);
    }
    this.#scheduleFlush();
  }

  // --- inside -----------------------------------------------------------------------------------------------------

  #adopt(id: number): QuicheStream {
    const stream = new QuicheStream(id, this, this.#host.quiche, this.#clock);
    this.#streams.set(id, stream);
    this.#hold();
    return stream;
  }

  #hold(): void {
    const busy = !this.#established || this.#streams.size > 0;
    if (busy === this.#held || this.#isGone) return;
    this.#held = busy;
    this.#host.hold?.(busy);
  }

  readonly #stats = (): PathMtuStats => {
    const { lost, lostBytes } = this.native.stats();
    const { rtt = 0, cwnd = 0, deliveryRate = 0 } = this.native.pathStats()[0] ?? {};
    return { lost, lostBytes, rtt, cwnd, deliveryRate };
  };

  #flush(): void {
    this.#scheduled = false;
    if (this.#isGone) return;
    const received = this.#unflushed > 0;
    if (received) {
      releaseMemory(this.#spent);
      this.#spent = [];
      this.#unacknowledged += this.#unflushed;
      this.#unflushed = 0;
      this.#lastReceived = this.#clock.now();
      this.#host.pathMtu.onReceived(this.#lastReceived, this.#stats);
      this.#written = 0;
    }
    if (this.#end === undefined) this.#progress(received);
    if (this.#unlooked >= LOOK) this.#requireUse();
    if (this.#isGone) return;
    if (this.#urgent || !this.#established || this.#unacknowledged >= this.#host.ackThreshold)
      this.#send();
    else this.#sendLater();
    this.#arm();
    if (this.#flushed.length > 0) for (const wake of this.#flushed.splice(0)) wake();
    if (this.native.isClosed()) this.#onNativeClosed();
  }

  /**
   * Ends a connection that brings more than anybody can have a use for. quiche 0.18 keeps parts of a handshake, addresses to answer from and
   * ids to retire without a bound (CVE-2024-1765, CVE-2023-6193, CVE-2024-1410), so a peer that sends nothing else takes as much memory as
   * it has bytes for. Only what is authentic counts: others must not be able to end a connection.
   */
  #requireUse(): void {
    this.#unlooked = 0;
    const { abuseBudget } = this.#host;
    if (abuseBudget === undefined || this.#end !== undefined) return;
    const { recvBytes: recv, sentBytes: sent } = this.native.stats();
    const before = this.#allowance;
    const [handed, at] = [this.#handed, this.#clock.now()];
    const earned = 2 * (handed - before.handed) + (sent - before.sent) / 2 + 4 * (at - before.at);
    const left = Math.min(abuseBudget, before.left + earned - (recv - before.recv));
    this.#allowance = { left, recv, handed, sent, at };
    if (left >= 0) return;
    const reason = "more bytes than there is a use for";
    this.abort(
      StreamCode.Violation,
      reason,
      new VortexError("ProtocolViolation", `the peer sent ${reason}`),
    );
  }

  #progress(received: boolean): void {
    if (!this.#established) this.#advance();
    if (received) {
      if (this.native.isDraining() || this.native.isClosed()) {
        this.#onNativeClosed();
        return;
      }
      if (this.#established || this.#earlyData === "pending") this.#wakeReaders();
      if (this.#discarded.size > 0) this.#reap();
      if (this.#creditWaiters.length > 0) {
        for (const wake of this.#creditWaiters.splice(0, this.native.peerStreamsLeftBidi())) wake();
      }
    }
    if (this.#blocked.size > 0) this.#write();
  }

  /**
   * Hands what has come to those who wait for it. The list of readable streams costs as much as twenty other calls of the binding, so
   * it is asked for only where it may hold new streams, or saves many looks at streams that wait in vain.
   */
  #wakeReaders(): void {
    if ((this.#server || this.#reading.size > FEW_READERS) && this.native.isReadable()) {
      for (const id of this.native.readable()) this.#onReadable(id);
    } else {
      for (const id of this.#reading) this.#streams.get(id)?.onReadable();
    }
    for (const id of this.#reading) {
      // quiche 0.18 does not call a stream readable when its end comes with bytes that were there before.
      if (this.native.streamFinished(id)) this.#streams.get(id)?.onFinished();
    }
  }

  /**
   * Shares the room that the congestion window leaves among the writers, in turn.
   *
   * Only as much is handed to quiche as goes out with the next #send: quiche 0.18 never forgets a stream that the peer
   * stops while bytes of it wait unsent (`SendBuf::reset` marks them as acknowledged, beyond the final size), and its
   * credit would be lost. So writes wait for the next flush, and overhead is allowed for.
   */
  #write(): void {
    const room = new Map<QuicheStream, number>();
    let budget = 0;
    for (const id of this.#blocked) {
      const stream = this.#streams.get(id);
      if (stream === undefined) continue;
      try {
        const capacity = this.native.streamCapacity(id);
        if (capacity > 0) room.set(stream, capacity);
        // Each is the lesser of the stream's own room and the connection's, so the greatest comes nearest to the latter.
        budget = Math.max(budget, capacity);
      } catch (error) {
        stream.stopWriting(error);
      }
    }
    // quiche looks at the window when a packet comes in, so what was written since then counts too.
    const window = budget + this.#written;
    const payload = Math.min(this.native.maxSendUdpPayloadSize(), this.#host.pathMtu.limit);
    const packet = payload - PACKET_OVERHEAD;
    budget -= Math.ceil(window / packet) * PACKET_OVERHEAD;
    // Whole packets, since quiche begins another one for what is left over.
    const share = Math.ceil(Math.max(MIN_SHARE_BYTES, budget / room.size) / packet) * packet;
    for (const [stream, capacity] of room) {
      if (budget <= 0) return;
      const taken = stream.onWritable(Math.min(share, budget, capacity));
      budget -= taken;
      this.#written += taken;
      this.#urgent = true;
      // To the end of the line.
      if (this.#blocked.delete(stream.id)) this.#blocked.add(stream.id);
    }
  }

  /** Looks how far the handshake has come. */
  #advance(): void {
    try {
      if (this.native.isEstablished()) {
        this.#host.onEstablished(this);
        this.#established = true;
        // A server that resumes the session without its early data has no name here: quiche tells of neither, and sends the
        // bytes again.
        if (this.#earlyData === "pending")
          this.#earlyData = this.native.isResumed() ? "accepted" : "refused";
        this.#resolveReady();
        this.#hold();
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
      if (!remote || this.#discarded.has(id) || !this.#isNew(id)) return;
      stream = this.#adopt(id);
      if (!this.#incoming.push(stream)) {
        stream.reader.cancel(StreamCode.Busy);
        stream.writer.abort(StreamCode.Busy);
        return;
      }
    }
    stream.onReadable();
  }

  #isNew(id: number): boolean {
    if (id < this.#nextRemote) return this.#skipped.delete(id);
    for (let skipped = this.#nextRemote; skipped < id; skipped += 4) this.#skipped.add(skipped);
    this.#nextRemote = id + 4;
    return true;
  }

  /**
   * Streams that were given up stay in quiche, with their credit, until their end has been read or something of this side
   * is acknowledged after it. So the end is read here, and where it cannot be (reading was shut down), a reset goes out:
   * its acknowledgement has quiche forget the stream.
   */
  #reap(): void {
    for (const [id, discarded] of this.#discarded) {
      try {
        this.native.streamRecv(id, SCRATCH);
      } catch {
        // A reset, or a stream that quiche has forgotten.
      }
      if (!discarded.reset && this.native.streamFinished(id)) {
        discarded.reset = true;
        try {
          this.native.streamShutdown(id, this.#host.quiche.Shutdown.Write, StreamCode.Cancelled);
        } catch {
          // Forgotten meanwhile.
        }
      }
      discarded.looks++;
      if (discarded.looks > MAX_LOOKS) this.#discarded.delete(id);
    }
    this.#prune(this.#discarded);
  }

  /** Drops the streams that quiche has forgotten, which is when everything on them has been acknowledged. */
  #prune(ids: Set<number> | Map<number, Discarded>): void {
    for (const id of ids.keys()) {
      try {
        this.native.streamCapacity(id);
      } catch (error) {
        if (error instanceof Error && error.message.startsWith("InvalidStreamState"))
          ids.delete(id);
      }
    }
  }

  /** Sends what there is soon, unless something else does so before. */
  #sendLater(): void {
    if (this.#unacknowledged === 0 && this.#read === 0) return;
    // Left running when a send comes before it: it is the same timer for many.
    this.#ackTimer ??= this.#clock.setTimer(() => {
      this.#ackTimer = undefined;
      if (this.#unacknowledged === 0 && this.#read === 0) return;
      this.#urgent = true;
      this.#flush();
    }, ACK_DELAY);
  }

  #send(): void {
    this.#urgent = false;
    this.#unacknowledged = 0;
    this.#read = 0;
    const { ring, pathMtu, connected } = this.#host;
    ring.rewind();
    for (;;) {
      let packet: ReturnType<NativeConnection["send"]>;
      const buffer = ring.current;
      const { limit } = pathMtu;
      try {
        // The buffer's length bounds the packet's.
        packet = this.native.send(limit < buffer.length ? buffer.subarray(0, limit) : buffer);
      } catch {
        // The connection cannot go on; its state says why, and #flush looks at that.
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
   * Sets the timer that quiche asks for. An earlier one is left, and looks again when it fires. In
   * the background: the socket keeps the process alive for as long as the connection is busy.
   */
  #arm(): void {
    if (this.#isGone) return;
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
    // quiche cuts the fraction of a millisecond off, so the timer would come just too early without the one more.
    this.#timer = this.#clock.setTimer(() => this.#onTimer(), timeout + 1, { background: true });
  }

  #onTimer(): void {
    this.#timer = undefined;
    this.#urgent = true;
    const left = this.native.timeout();
    if (left !== null && left <= 0) {
      this.native.onTimeout();
      this.#host.pathMtu.onTimer(this.#stats);
    }
    this.#flush();
  }

  #onNativeClosed(): void {
    if (this.#end === undefined) {
      const info = connectionError(this.native, this.#established, this.#server);
      this.#finish(this.#host.explain?.(info) ?? info);
    }
    if (this.native.isClosed()) this.#gone();
  }

  #closeNative(application: boolean, code: number, reason: string): void {
    try {
      this.native.close(application, code, new TextEncoder().encode(reason));
    } catch {
      // Closed already.
    }
    this.#send();
    this.#arm();
  }

  #finish(info: CloseInfo): void {
    if (this.#end !== undefined) return;
    this.#end = info;
    if (this.#earlyData === "pending") this.#earlyData = "refused";
    this.#keepAliveTimer?.cancel();
    this.#incoming.end();
    const inOrder = info.remote && info.code === 0;
    for (const stream of [...this.#streams.values()]) stream.fail(info.error, inOrder);
    this.#streams.clear();
    this.#blocked.clear();
    this.#reading.clear();
    for (const wake of this.#creditWaiters.splice(0)) wake();
    for (const wake of this.#flushed.splice(0)) wake();
    this.#rejectReady(info.error);
    this.#resolveClosed(info);
    this.#host.onEnded(this, info);
    if (!this.#host.drains) this.#gone();
  }

  #gone(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#ackTimer?.cancel();
    this.#host.onTerminated(this);
  }

  /** A peer whose address changed, by a new NAT binding for one; quiche validates the new path before it is used. */
  #follow(host: string, port: number): void {
    if (this.#source.port === port && this.#source.host === host) return;
    this.#source = { host, port };
    const [plain, zone] = splitZone(host);
    // Kept when the peer moves to a global address: its old path may still be in use.
    if (zone !== "") this.#zone = zone;
    this.#recvInfo = { to: this.#recvInfo.to, from: { host: plain, port } };
  }

  /** `host` as the socket takes it. */
  #withZone(host: string): string {
    return this.#zone !== "" && isLinkLocal(host) ? host + this.#zone : host;
  }

  #keepAlive(): void {
    const { keepAlive } = this.#host;
    const clock = this.#clock;
    if (keepAlive === undefined || this.#end !== undefined) return;
    const silent = clock.now() - this.#lastReceived;
    if (silent >= keepAlive) {
      this.native.sendAckEliciting();
      this.schedule();
    }
    const next = silent >= keepAlive ? keepAlive : keepAlive - silent;
    this.#keepAliveTimer = clock.setTimer(() => this.#keepAlive(), next, { background: true });
  }

  /** Waits until what was written on ended streams has been acknowledged, for at most `grace` milliseconds. */
  async #delivered(grace: number): Promise<void> {
    const clock = this.#clock;
    const until = clock.now() + grace;
    for (;;) {
      for (const { id, writeEnded } of this.#streams.values())
        if (writeEnded) this.#finished.add(id);
      this.#prune(this.#finished);
      const left = until - clock.now();
      if (this.#finished.size === 0 || this.#end !== undefined || left <= 0) return;
      if (this.#blocked.size === 0 && !this.#awaitsAcknowledgements(left)) return;
      await new Promise<void>((resolve) => {
        const timer = clock.setTimer(resolve, left);
        this.#flushed.push(() => {
          timer.cancel();
          resolve();
        });
      });
    }
  }

  /**
   * Whether packets may be under way that the other side has not acknowledged. quiche does not tell, but it has a timer for them,
   * of a few round trips, and for nothing else that is due so soon. Streams say less: they live until what comes in on them was read.
   */
  #awaitsAcknowledgements(milliseconds: number): boolean {
    const timeout = this.native.timeout();
    const rtt = this.native.pathStats()[0]?.rtt ?? 0;
    return timeout !== null && timeout <= Math.max(milliseconds, 16 * rtt + 1000);
  }

  #creditOrAbort(signal: AbortSignal | undefined, milliseconds: number | undefined): Promise<void> {
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

function closedHere(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}

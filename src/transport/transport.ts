/**
 * The boundary between the protocol and the runtimes: byte streams, connections of streams, and transports that dial and
 * listen. Each binding implements it, and `test/compliance` holds each to what is written here.
 *
 * **Errors.** Whatever fails, fails with a `VortexError`; the native error is its `cause`.
 *
 * **Waiting.** No promise here waits for ever: dialling and opening take an AbortSignal, and everything that waits on a
 * connection is rejected when that connection ends. A transport ends a silent connection after its idle timeout.
 *
 * **Half-close.** The two directions of a stream are independent. `end()` closes one and leaves the other.
 */
import type { VortexError } from "../errors.ts";
import type { Address } from "./address.ts";
import type { TlsIdentity } from "./tls.ts";

/** Why a stream or connection is given up; carried by QUIC frames, and lost on TCP, which knows one kind of reset. */
export const StreamCode = {
  /** Nothing is wrong. */
  None: 0,
  /** The one who gives up does not need the rest. */
  Cancelled: 1,
  /** A deadline passed. */
  Timeout: 2,
  /** The other side broke the protocol. */
  Violation: 3,
  /** No capacity for this stream or connection now. */
  Busy: 4,
  /** A failure inside. */
  Internal: 5,
} as const;

/** The direction that bytes come from. Pulled: what nobody reads stays in the transport's window and holds the sender. */
export interface ByteReader {
  /**
   * The next chunk, never empty, or undefined once the other side has ended its direction. The chunk belongs to the
   * caller. One call at a time.
   *
   * @param into memory for the bytes, not empty. A transport that can do so fills it from its start, and the chunk is that part of
   * it; others hand out memory of their own all the same. Until the call has settled, the memory is the transport's.
   *
   * Rejects with `StreamReset` when the other side aborted, `ConnectionLost` when the connection ended first, and
   * `Closed` after `cancel()`, also the call that is waiting.
   */
  read(into?: Uint8Array): Promise<Uint8Array | undefined>;
  /** Gives up reading: the other side is told to stop sending. Idempotent; without effect after the end. */
  cancel(code?: number): void;
}

/** The direction that bytes go to. */
export interface ByteWriter {
  /**
   * Resolves when more may be written: at once while there is room, later when the reader is slower. The bytes must not
   * change any more. One call at a time. A chunk of no bytes sends nothing, and tells whether a write would be rejected, as far as
   * that is known by then.
   *
   * Rejects with `StreamReset` when the other side cancelled, `ConnectionLost` when the connection ended, and `Closed`
   * after `end()` or `abort()`.
   */
  write(chunk: Uint8Array): Promise<void>;
  /**
   * Half-close, after all that was written and `last`, which may save a packet against a write and an end. Resolves when the
   * transport has taken it over, and rejects as `write` does. Without `last` idempotent.
   */
  end(last?: Uint8Array): Promise<void>;
  /** Gives up writing: what is still under way may be lost, and the other side's reads fail. Idempotent. */
  abort(code?: number): void;
}

/** A stream of bytes in both directions. */
export interface ByteStream {
  /** What the peer sends. */
  readonly reader: ByteReader;
  /** What the peer is sent. */
  readonly writer: ByteWriter;
}

/** How a connection ended. */
export interface CloseInfo {
  /** The application's or transport's error code, 0 when nothing was wrong or the transport has none. */
  readonly code: number;
  /** Text from whichever side closed; may be empty. */
  readonly reason: string;
  /** Whether the other side ended it. */
  readonly remote: boolean;
  /** What requests on this connection fail with. */
  readonly error: VortexError;
}

/**
 * Early data of a connection (RFC 9001, section 4.6): `none` was sent, it is `pending` while the handshake is under way, and
 * then the peer has `accepted` or `refused` it.
 */
export type EarlyData = "none" | "pending" | "accepted" | "refused";

/** Streams to and from one peer. */
export interface Connection {
  /** What it is made over. */
  readonly protocol: "quic" | "tcp";
  /** The other side. */
  readonly remote: Address;
  /** Whether the handshake resumed an earlier session; false until it is over. */
  readonly resumed: boolean;
  /** What became of the data that was to travel ahead of the handshake, see {@link DialOptions.earlyData}. */
  readonly earlyData: EarlyData;
  /**
   * Resolves when the handshake is over, which it is when `dial` resolves but for {@link DialOptions.earlyData}. Rejects with
   * what `dial` would have rejected with. Nobody needs to look at it.
   */
  readonly ready: Promise<void>;
  /**
   * Opens a stream; waits for stream credit. The other side sees the stream no later than its first byte.
   * Rejects with `Aborted` (or the signal's own `VortexError`), `ConnectionLost` or `Closed`.
   */
  openStream(options?: { readonly signal?: AbortSignal }): Promise<ByteStream>;
  /**
   * Packets from the peer that proved authentic, so far. While it grows the peer lives, whatever its application does. Absent where the
   * binding does not count them.
   */
  readonly received?: number;
  /** Streams that the other side opened, until the connection ends. Iterate once. */
  accept(): AsyncIterable<ByteStream>;
  /** Resolves, never rejects, when the connection has ended, whoever ended it. */
  readonly closed: Promise<CloseInfo>;
  /**
   * Graceful: no new streams, what has been written and ended is delivered (for at most `grace` milliseconds, default
   * 5000), then the other side is told. Idempotent.
   */
  close(options?: { readonly grace?: number }): Promise<void>;
  /**
   * Abrupt: streams fail at once, and the other side is told why. Idempotent.
   * @param error what streams fail with on this side. Default: `Closed`
   */
  abort(code?: number, reason?: string, error?: VortexError): void;
}

/** What dialling may be told. */
export interface DialOptions {
  /**
   * Ends the attempt, which lasts until the connection is {@link Connection.ready}; the promise, and after it the streams,
   * reject with the signal's reason if that is a `VortexError`, else `Aborted`.
   */
  readonly signal?: AbortSignal;
  /**
   * Resolves without waiting for the handshake when the transport remembers a session with this peer: what is written before
   * the handshake is over travels in the first flight, where whoever is on the path may record it and send it again (RFC 8446,
   * section 8). So only for requests without an effect. Should the peer refuse it, the streams opened until then fail with
   * `EarlyDataRefused`, or the transport sends their bytes again. The connection goes on, but for Deno's, which ends with the same
   * code; what is dialled after it has none. A host name with several addresses gets no early data, since what was sent to one
   * address cannot move to another. Default false.
   */
  readonly earlyData?: boolean;
}

/** What listening may be told. */
export interface ListenOptions {
  /** Greatest number of connections at a time; further ones are turned away. Default 1024. */
  readonly maxConnections?: number;
  /** Greatest number of streams at a time that a peer may open on one connection. Default 128. */
  readonly maxStreams?: number;
  /**
   * Whether requests of returning clients are taken before their handshake is over ({@link DialOptions.earlyData}); never
   * where clients must show a certificate. Default true, where the runtime can.
   */
  readonly earlyData?: boolean;
  /**
   * Receives failures of the listener that no connection or stream reports, such as an accept
   * without a free file descriptor, and exceptions in event callbacks. The listener goes on.
   * Default: they are dropped.
   */
  readonly onError?: (error: VortexError) => void;
}

/** Default of {@link ListenOptions.maxConnections}. */
export const DEFAULT_MAX_CONNECTIONS = 1024;
/** Default of {@link ListenOptions.maxStreams}. */
export const DEFAULT_MAX_STREAMS = 128;

/** Counts since a listener was made. */
export interface ListenerCounters {
  /** Datagrams dropped unread: no datagram can go back to their source (port 0). */
  readonly unanswerable: number;
  /** Datagrams that the socket did not take (not those that the system refused later). Each is lost, like one lost on its way. */
  readonly unsent: number;
  /** Exceptions in event callbacks. Each ended the connection concerned, and went to {@link ListenOptions.onError}. */
  readonly caught: number;
}

/** Waits for peers. */
export interface Listener {
  /** The address in use, with the port that was chosen if 0 was asked for. */
  readonly address: Address;
  /** What a client may pin: the SHA-256 fingerprint of the certificate, colon-separated hex. Undefined without TLS. */
  readonly fingerprint: string | undefined;
  /** Absent where the transport counts nothing: over TCP, and where the runtime keeps the socket to itself. */
  readonly counters?: ListenerCounters;
  /**
   * Shows connections that come from now on another certificate; those that exist go on. Resolves when it is in use.
   * Rejects with `InvalidArgument` for a certificate or key that is none, and with `Unavailable` where there is no TLS.
   */
  setIdentity(identity: TlsIdentity): Promise<void>;
  /** Established connections, until the listener is closed. Iterate once. */
  accept(): AsyncIterable<Connection>;
  /** Stops listening and ends its connections, as {@link Connection.close} does. Idempotent. */
  close(options?: { readonly grace?: number }): Promise<void>;
}

/** One way to reach peers. */
export interface Transport {
  /** What its connections are made over. */
  readonly protocol: "quic" | "tcp";
  /** The protocol that was asked for, where it is not to be had and this one stands in for it. */
  readonly insteadOf?: "quic";
  /**
   * Rejects with `ConnectionRefused`, `Unreachable`, `HandshakeFailed`, `ProtocolNotSupported`, or as the signal says; with
   * `InvalidArgument` for an IPv6 address with a zone where the runtime dials none.
   */
  dial(remote: Address, options?: DialOptions): Promise<Connection>;
  /** Rejects with `AddressInUse` or `InvalidArgument`. */
  listen(local: Address, options?: ListenOptions): Promise<Listener>;
  /**
   * Gives up what is kept from one connection for the next, as sockets for the sessions of 0-RTT, and keeps nothing from then on.
   * Connections and listeners go on until they are closed themselves. Absent where nothing is kept but memory. Idempotent.
   */
  close?(): Promise<void>;
}

/**
 * Contract between the protocol and the runtimes: byte streams, connections of streams, and
 * transports that dial and listen. Each binding implements it, and `test/compliance` checks each
 * binding against this text.
 *
 * **Errors.** Every rejection is a `VortexError`; its `cause` is the native error.
 *
 * **Waiting.** No promise waits for ever. `dial` and `openStream` take an AbortSignal. When a
 * connection ends, everything that waits on it is rejected. A transport ends a silent connection
 * after its idle timeout.
 *
 * **Backpressure.** Unread bytes stay in the receive window and hold the sender back. A `write`
 * resolves only once there is room for more, so a writer must await each call.
 *
 * **Half-close.** The two directions of a stream are independent: `end()` closes one and leaves the
 * other open.
 *
 * **Cancel and abort.** `reader.cancel()` gives up the receiving direction and `writer.abort()` the
 * sending one; each leaves the other direction and the connection as they are. A pending call on
 * that direction rejects with `Closed` here. The peer's pending and later calls reject with
 * `StreamReset`, and never see a clean end. A transport that cannot do so names the exceptions in
 * `gaps` of its compliance test.
 */
import type { VortexError } from "../errors.ts";
import type { Address } from "./address.ts";
import type { TlsIdentity } from "./tls.ts";

/**
 * Application error codes of stream resets and connection closes. QUIC frames carry them to the
 * peer. TCP has a single kind of reset, so the code is lost there.
 */
export const StreamCode = {
  /** No error. */
  None: 0,
  /** The sender of the code does not need the rest. */
  Cancelled: 1,
  /** A deadline passed. */
  Timeout: 2,
  /** The peer violated the protocol. */
  Violation: 3,
  /** No capacity for this stream or connection now. */
  Busy: 4,
  /** Internal failure. */
  Internal: 5,
} as const;

/**
 * Receiving direction of a stream. Pull-based: bytes that are not read stay in the receive window
 * and hold the sender back.
 */
export interface ByteReader {
  /**
   * Reads the next chunk. A chunk is never empty, and belongs to the caller. Resolves to undefined
   * once the peer has ended its direction and all bytes are read. Only one call at a time.
   *
   * Rejects with `StreamReset` when the peer aborted, `ConnectionLost` when the connection ended
   * first, and `Closed` after `cancel()`, which also rejects a pending call.
   *
   * @param into non-empty buffer for the bytes. A transport that can fill it returns a view of its
   * start; others return a separate buffer. It belongs to the transport until the call settles.
   */
  read(into?: Uint8Array): Promise<Uint8Array | undefined>;
  /**
   * Stops reading and asks the peer to stop sending (QUIC: STOP_SENDING, RFC 9000, section 3.5).
   * Unread bytes are discarded. Idempotent; without effect once the end has been read.
   *
   * @param code one of {@link StreamCode}. Default: `Cancelled`
   */
  cancel(code?: number): void;
}

/** Sending direction of a stream. */
export interface ByteWriter {
  /**
   * Writes a chunk. Resolves when there is room for more: at once while the peer keeps up, later
   * when it reads more slowly. The chunk must not change after the call. Only one call at a time.
   *
   * An empty chunk sends nothing. It probes whether a write would be rejected, as far as this side
   * knows already.
   *
   * Rejects with `StreamReset` when the peer cancelled, `ConnectionLost` when the connection ended,
   * and `Closed` after `end()` or `abort()`.
   */
  write(chunk: Uint8Array): Promise<void>;
  /**
   * Half-closes the stream after all written bytes and `last`. Resolves when the transport has
   * accepted them, not when the peer has read them. Rejects as `write` does. Passing `last` instead
   * of a separate `write` can save a packet. Idempotent without `last`.
   */
  end(last?: Uint8Array): Promise<void>;
  /**
   * Resets the sending direction (QUIC: RESET_STREAM, RFC 9000, section 3.5). Bytes in flight may
   * be lost, and the peer's reads fail. Idempotent.
   *
   * @param code one of {@link StreamCode}. Default: `Cancelled`
   */
  abort(code?: number): void;
}

/** Bidirectional byte stream. */
export interface ByteStream {
  /** Receiving direction: bytes from the peer. */
  readonly reader: ByteReader;
  /** Sending direction: bytes to the peer. */
  readonly writer: ByteWriter;
}

/** Cause of the end of a connection. */
export interface CloseInfo {
  /**
   * Error code of the application or transport. 0 without an error, or where the transport has no
   * codes.
   */
  readonly code: number;
  /** Reason phrase from the side that closed; may be empty. */
  readonly reason: string;
  /** True when the peer ended the connection. */
  readonly remote: boolean;
  /** Error that pending and later requests on this connection reject with. */
  readonly error: VortexError;
}

/**
 * State of a connection's early data (RFC 9001, section 4.6):
 *
 * - `none`: no early data was sent.
 * - `pending`: early data was sent, and the handshake is in progress.
 * - `accepted`: the peer accepted it.
 * - `refused`: the peer refused it.
 */
export type EarlyData = "none" | "pending" | "accepted" | "refused";

/** Connection to one peer, which carries streams in both directions. */
export interface Connection {
  /** Protocol that carries the connection. */
  readonly protocol: "quic" | "tcp";
  /** Address of the peer. */
  readonly remote: Address;
  /** True when the handshake resumed an earlier TLS session; false until the handshake is over. */
  readonly resumed: boolean;
  /** State of the early data, see {@link DialOptions.earlyData}. */
  readonly earlyData: EarlyData;
  /**
   * Resolves when the handshake is over. Without {@link DialOptions.earlyData} that is already the
   * case when `dial` resolves. Rejects with the error that `dial` would have rejected with.
   * Ignoring it is safe: its rejection never counts as unhandled.
   */
  readonly ready: Promise<void>;
  /**
   * Opens a stream; waits for stream credit. The peer sees the stream at the latest with its first
   * byte. Rejects with `Aborted` (or the signal's own `VortexError`), `ConnectionLost` or `Closed`.
   */
  openStream(options?: { readonly signal?: AbortSignal }): Promise<ByteStream>;
  /**
   * Number of authenticated packets received from the peer so far. While it grows, the peer is
   * alive, whatever its application does. Absent where the binding does not count packets.
   */
  readonly received?: number;
  /** Yields the streams that the peer opens, until the connection ends. Iterate only once. */
  accept(): AsyncIterable<ByteStream>;
  /** Resolves when the connection has ended, whichever side ended it. Never rejects. */
  readonly closed: Promise<CloseInfo>;
  /**
   * Closes gracefully. `openStream` rejects with `Closed` from the call on. Directions that were
   * ended are delivered within `grace` ms (default 5,000); streams that are still open then end
   * with `Closed`. Then the peer is notified. Idempotent.
   */
  close(options?: { readonly grace?: number }): Promise<void>;
  /**
   * Closes abruptly: all streams fail at once, and the peer receives `code` and `reason`.
   * Idempotent.
   *
   * @param error error that streams on this side reject with. Default: `Closed`
   */
  abort(code?: number, reason?: string, error?: VortexError): void;
}

/** Options of {@link Transport.dial}. */
export interface DialOptions {
  /**
   * Aborts the attempt, until the connection is {@link Connection.ready}. Then `dial`, or the
   * streams that are open already, reject. The error is the signal's reason if it is a
   * `VortexError`, else `Aborted`.
   */
  readonly signal?: AbortSignal;
  /**
   * Sends 0-RTT data. Default false.
   *
   * When the transport has a session with this peer, `dial` resolves without waiting for the
   * handshake. Bytes written before the handshake is over travel in the first flight. An on-path
   * attacker can replay them (RFC 8446, section 8), so use it only for requests without side
   * effects.
   *
   * When the peer refuses early data, the streams opened until then reject with `EarlyDataRefused`,
   * or the transport resends their bytes. The connection stays open, except with Deno's QUIC, where
   * it ends with the same code and the next dial sends no early data.
   *
   * A host name with several addresses gets no early data: bytes sent to one address cannot move to
   * another.
   */
  readonly earlyData?: boolean;
}

/** Options of {@link Transport.listen}. */
export interface ListenOptions {
  /** Maximum number of concurrent connections; further ones are refused. Default 1,024. */
  readonly maxConnections?: number;
  /** Maximum number of concurrent streams that a peer may open on one connection. Default 128. */
  readonly maxStreams?: number;
  /**
   * Accepts 0-RTT requests of returning clients ({@link DialOptions.earlyData}). Never does so when
   * clients must present a certificate. Default true, where the runtime supports it.
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

/** Counters of a listener, from its creation on. */
export interface ListenerCounters {
  /** Received datagrams dropped unread, because their source cannot be answered (port 0). */
  readonly unanswerable: number;
  /**
   * Outgoing datagrams that the socket did not accept. Each counts as lost on the path. Datagrams
   * that the system rejects later are not included.
   */
  readonly unsent: number;
  /**
   * Exceptions in event callbacks. Each ended the connection concerned, and was passed to
   * {@link ListenOptions.onError}.
   */
  readonly caught: number;
}

/** Accepts connections at a local address. */
export interface Listener {
  /** Bound address, with the assigned port when port 0 was requested. */
  readonly address: Address;
  /**
   * SHA-256 fingerprint of the certificate, colon-separated hex, for clients to pin. Undefined
   * without TLS.
   */
  readonly fingerprint: string | undefined;
  /**
   * Counters of this listener. Absent where the transport counts nothing: over TCP, and where the
   * runtime owns the socket.
   */
  readonly counters?: ListenerCounters;
  /**
   * Replaces the certificate for new connections; existing ones keep theirs. Resolves when the new
   * certificate is in use. Rejects with `InvalidArgument` for an invalid certificate or key, and
   * with `Unavailable` without TLS.
   */
  setIdentity(identity: TlsIdentity): Promise<void>;
  /** Yields established connections, until the listener is closed. Iterate only once. */
  accept(): AsyncIterable<Connection>;
  /** Stops listening and closes all connections, see {@link Connection.close}. Idempotent. */
  close(options?: { readonly grace?: number }): Promise<void>;
}

/** Dials and listens over one protocol. */
export interface Transport {
  /** Protocol of its connections. */
  readonly protocol: "quic" | "tcp";
  /** Requested protocol, when it is unavailable and this transport replaces it. */
  readonly insteadOf?: "quic";
  /**
   * Connects to a peer. Rejects with `ConnectionRefused`, `Unreachable`, `HandshakeFailed` or
   * `ProtocolNotSupported`, and when the signal aborts, see {@link DialOptions.signal}. Also
   * rejects with `InvalidArgument` for an IPv6 address with a zone, where the runtime cannot dial
   * one.
   */
  dial(remote: Address, options?: DialOptions): Promise<Connection>;
  /**
   * Starts to listen at a local address; port 0 selects a free port. Rejects with `AddressInUse` or
   * `InvalidArgument`.
   */
  listen(local: Address, options?: ListenOptions): Promise<Listener>;
  /**
   * Releases resources kept between connections, such as sockets for 0-RTT sessions, and keeps none
   * from then on. Open connections and listeners are not affected. Absent where only memory is
   * kept. Idempotent.
   */
  close?(): Promise<void>;
}

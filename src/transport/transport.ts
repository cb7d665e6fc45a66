/**
 * Contract between the protocol code and the runtimes: byte streams, connections that carry
 * streams, and transports that dial and listen. Each runtime has an implementation. The tests in
 * `test/compliance` check each implementation against the text in this file.
 *
 * **Errors.** Every rejection is a `VortexError` whose `cause` is the native error.
 *
 * **Waiting.** No promise stays pending for ever. `dial` and `openStream` accept an AbortSignal.
 * When a connection ends, all pending calls on it reject. A transport ends a connection from which
 * nothing arrives within its idle timeout.
 *
 * **Backpressure.** Unread bytes stay in the receive window, so the sender must wait. A `write`
 * resolves only when there is room for more bytes, so a writer must await each call.
 *
 * **Half-close.** The two directions of a stream are independent: `end()` closes one direction and
 * does not affect the other.
 *
 * **Cancel and abort.** `reader.cancel()` gives up the receiving direction, and `writer.abort()`
 * the sending direction. Neither affects the other direction or the connection. Pending calls for
 * that direction reject with `Closed` on this side. On the peer's side, pending and later calls
 * reject with `StreamReset`; they never report a regular end of the stream. If a transport cannot
 * do so, its compliance test lists the exceptions in `gaps`.
 */
import type { VortexError } from "../errors.ts";
import type { Address } from "./address.ts";
import type { TlsIdentity } from "./tls.ts";

/**
 * Application error codes for stream resets and connection closes. QUIC sends the code to the peer.
 * TCP has only one kind of reset, so the peer does not receive the code.
 */
export const StreamCode = {
  /** No error. */
  None: 0,
  /** The side that sends the code does not need the remaining bytes. */
  Cancelled: 1,
  /** A time limit has passed. */
  Timeout: 2,
  /** The peer has violated the protocol. */
  Violation: 3,
  /** The server currently has no capacity for this stream or connection. */
  Busy: 4,
  /** An internal error occurred on the side that sends the code. */
  Internal: 5,
} as const;

/**
 * Receiving direction of a stream. Bytes arrive only as fast as they are read: unread bytes stay in
 * the receive window, so the sender must wait.
 */
export interface ByteReader {
  /**
   * Reads the next bytes. Resolves to a non-empty chunk, which the caller may keep and change.
   * Resolves to undefined once all bytes are read and the peer has ended its direction. Only one
   * call may be pending at a time.
   *
   * Rejects with `StreamReset` if the peer aborted the stream, and with `ConnectionLost` if the
   * connection ended before the stream. Rejects with `Closed` after {@link cancel}, also if the
   * call was pending.
   *
   * @param into non-empty buffer for the bytes, which the caller must not use until the call
   * settles. If the transport can fill it, the result is a view of its start; otherwise a separate
   * buffer. Default: a new buffer
   */
  read(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /**
   * Stops reading and asks the peer to stop sending (QUIC: STOP_SENDING, RFC 9000, section 3.5).
   * Unread bytes are discarded. Idempotent. Does nothing if the end of the stream has been read.
   *
   * @param code error code for the peer, from {@link StreamCode}. Default: `Cancelled`
   */
  cancel(code?: number): void;
}

/** Sending direction of a stream. */
export interface ByteWriter {
  /**
   * Writes a chunk. Resolves when there is room for further bytes; if the peer reads slowly, that
   * takes longer. The caller must not change the chunk after the call. Only one call may be pending
   * at a time.
   *
   * An empty chunk sends nothing. The call then only checks whether this side knows of an error
   * with which a write would reject.
   *
   * Rejects with `StreamReset` if the peer cancelled the stream, with `ConnectionLost` if the
   * connection ended, and with `Closed` after {@link end} or {@link abort}.
   */
  write(chunk: Uint8Array): Promise<void>;
  /**
   * Half-closes the stream: sends all written bytes, then `last`, then the end of this direction.
   * Resolves when the transport has accepted the bytes; the peer may not have read them yet.
   * Rejects like {@link write}. Idempotent if `last` is omitted.
   *
   * @param last final bytes. To pass them here instead of to {@link write} can save a packet
   */
  end(last?: Uint8Array): Promise<void>;
  /**
   * Resets the sending direction (QUIC: RESET_STREAM, RFC 9000, section 3.5). Bytes in flight may
   * be lost, and the peer's reads reject. Idempotent.
   *
   * @param code error code for the peer, from {@link StreamCode}. Default: `Cancelled`
   */
  abort(code?: number): void;
}

/** Stream of bytes in both directions, like a QUIC stream or a TCP connection. */
export interface ByteStream {
  /** Receiving direction: bytes from the peer. */
  readonly reader: ByteReader;
  /** Sending direction: bytes to the peer. */
  readonly writer: ByteWriter;
  /** Present if the transport can carry another exchange after this one on the same socket. */
  readonly kept?: KeptStream;
}

/**
 * Reuse of the socket behind a stream, over TCP. The stream carries one exchange: a request and its
 * response. The next exchange on the socket is a new stream. The protocol must know where a request
 * and a response end, since the directions stay open.
 */
export interface KeptStream {
  /**
   * True if an earlier exchange used the socket, and no byte has arrived in this one. If the stream
   * fails then, the peer may have closed the socket before the request arrived. Repeat the exchange
   * on a new socket, see `fresh` of {@link Connection.openStream}.
   */
  readonly stale: boolean;
  /**
   * Writes the last bytes of this side like {@link ByteWriter.end}, but keeps the direction open.
   * Resolves when the transport has accepted the bytes. Rejects like {@link ByteWriter.write}.
   */
  send(last: Uint8Array): Promise<void>;
  /**
   * Ends the exchange after both messages are complete. The stream must not be used afterwards; its
   * methods have no effect or reject with `Closed`.
   *
   * On the dialling side, the socket carries a later stream, unless unread bytes have arrived or
   * the peer has ended its direction. It is then closed. On the accepting side, the connection
   * yields the stream of the next exchange.
   *
   * @returns number of unread bytes. On the dialling side more than 0 is an error of the peer
   */
  release(): number;
}

/** Information on how a connection ended. */
export interface CloseInfo {
  /**
   * Error code of the application or the transport. 0 if there was no error, or the transport has
   * no error codes.
   */
  readonly code: number;
  /** Reason phrase from the side that closed the connection. May be empty. */
  readonly reason: string;
  /** True if the peer closed the connection, false if this side did. */
  readonly remote: boolean;
  /** Error with which pending and later calls on the connection reject. */
  readonly error: VortexError;
}

/**
 * State of the early data (0-RTT) of a connection, see RFC 9001, section 4.6:
 *
 * - `none`: the client has sent no early data.
 * - `pending`: the client has sent early data, and the handshake is not complete.
 * - `accepted`: the server accepted the early data.
 * - `refused`: the server refused the early data.
 */
export type EarlyData = "none" | "pending" | "accepted" | "refused";

/** Options of {@link Connection.openStream}. */
export interface OpenStreamOptions {
  /** Aborts the wait for a stream. Has no effect once the stream is open. */
  readonly signal?: AbortSignal;
  /**
   * True to open a new socket, even if one of an earlier exchange could be reused (see
   * {@link KeptStream}). Has no effect over QUIC. Default false.
   */
  readonly fresh?: boolean;
}

/** Connection to one peer. Both sides can open streams on it. */
export interface Connection {
  /** Protocol that carries the streams of the connection. */
  readonly protocol: "quic" | "tcp";
  /** Network address of the peer. */
  readonly remote: Address;
  /**
   * True if the handshake resumed an earlier TLS session. False before the handshake is complete.
   */
  readonly resumed: boolean;
  /** State of the early data on this connection, see {@link DialOptions.earlyData}. */
  readonly earlyData: EarlyData;
  /**
   * Resolves when the handshake is complete. If early data is not used, the handshake is complete
   * when `dial` resolves. Rejects with the error with which `dial` would have rejected. A caller
   * may ignore the promise: its rejection never counts as unhandled.
   */
  readonly ready: Promise<void>;
  /**
   * Opens a stream; waits while the peer permits no further stream (QUIC: MAX_STREAMS). The peer
   * may not notice the stream before its first byte arrives. Rejects with:
   *
   * - the signal's reason if it is a `VortexError`, else `Aborted`, when `options.signal` aborts
   * - `ConnectionLost` if the connection was lost or the peer closed it
   * - `Closed` if this side closed the connection
   */
  openStream(options?: OpenStreamOptions): Promise<ByteStream>;
  /**
   * Number of authenticated packets received from the peer so far. If the number grows, the peer's
   * host is alive, even if its application does not respond. Absent if the transport does not count
   * packets.
   */
  readonly received?: number;
  /**
   * Yields each stream that the peer opens. Ends when the connection ends. Only one iteration is
   * allowed.
   */
  accept(): AsyncIterable<ByteStream>;
  /** Resolves when either side has closed the connection, or it was lost. Never rejects. */
  readonly closed: Promise<CloseInfo>;
  /**
   * Closes the connection gracefully. New calls of {@link openStream} reject with `Closed` at once.
   * Waits up to `grace` ms (default 5,000) until the peer has received the directions that were
   * ended with `end()`. Then fails all open streams with `Closed`, and notifies the peer.
   * Idempotent.
   */
  close(options?: { readonly grace?: number }): Promise<void>;
  /**
   * Closes the connection at once: all streams fail, and the peer receives `code` and `reason`.
   * Idempotent.
   *
   * @param code error code for the peer, from {@link StreamCode}. Default: `None`
   * @param reason reason phrase for the peer. Default: empty
   * @param error error with which the streams on this side reject. Default: `Closed`
   */
  abort(code?: number, reason?: string, error?: VortexError): void;
}

/** Options of {@link Transport.dial}. */
export interface DialOptions {
  /**
   * Aborts the connection attempt. Has no effect once the handshake is complete, see
   * {@link Connection.ready}. After an abort, `dial` rejects; if `dial` has resolved already
   * (0-RTT), the open streams reject. The error is the signal's reason if it is a `VortexError`,
   * else `Aborted`.
   */
  readonly signal?: AbortSignal;
  /**
   * True to send early data (0-RTT). Default false.
   *
   * If the transport has a TLS session with the peer, `dial` resolves before the handshake. Bytes
   * written before the handshake is complete are sent in the first packets. An on-path attacker can
   * replay them (RFC 8446, section 8), so use this option only for requests without side effects.
   *
   * If the peer refuses the early data, the streams opened so far reject with `EarlyDataRefused`,
   * or the transport sends their bytes again. The connection stays open. Exception: with Deno's
   * QUIC, the connection ends with `EarlyDataRefused`, and the next dial sends no early data.
   *
   * The option has no effect for a host name with several addresses, because bytes sent to one
   * address cannot be moved to another.
   */
  readonly earlyData?: boolean;
}

/** Options of {@link Transport.listen}. */
export interface ListenOptions {
  /**
   * Maximum number of concurrent connections. When it is reached, new connections are refused.
   * Default 1,024.
   */
  readonly maxConnections?: number;
  /** Maximum number of concurrent streams that the peer may open on one connection. Default 128. */
  readonly maxStreams?: number;
  /**
   * True to accept early data (0-RTT) from clients, see {@link DialOptions.earlyData}. Has no
   * effect if clients must present a certificate. Default true, if the runtime supports it.
   */
  readonly earlyData?: boolean;
  /**
   * Receives errors of the listener that no connection or stream reports. Examples are a connection
   * that could not be accepted for lack of file descriptors, and an exception in an event callback.
   * The listener continues to work. Default: these errors are ignored.
   */
  readonly onError?: (error: VortexError) => void;
}

/** Default value of {@link ListenOptions.maxConnections}. */
export const DEFAULT_MAX_CONNECTIONS = 1024;
/** Default value of {@link ListenOptions.maxStreams}. */
export const DEFAULT_MAX_STREAMS = 128;

/** Counters of a listener since its creation. */
export interface ListenerCounters {
  /**
   * Number of received datagrams that were ignored because their source port is 0, so no response
   * can be sent.
   */
  readonly unanswerable: number;
  /**
   * Number of datagrams that the socket refused to send. QUIC handles them like datagrams lost on
   * the path. Does not include datagrams that the socket accepted and the system rejected later.
   */
  readonly unsent: number;
  /**
   * Number of exceptions in event callbacks. Each exception ended its connection, and was passed to
   * {@link ListenOptions.onError}.
   */
  readonly caught: number;
}

/** Server socket that accepts connections at a local address. */
export interface Listener {
  /**
   * Local address that the listener is bound to. Contains the assigned port if port 0 was
   * requested.
   */
  readonly address: Address;
  /**
   * SHA-256 fingerprint of the certificate as colon-separated hex, for clients to pin. Undefined if
   * the transport does not use TLS.
   */
  readonly fingerprint: string | undefined;
  /**
   * Counters of this listener. Absent if the transport counts nothing: over TCP, and where the
   * runtime manages the UDP socket.
   */
  readonly counters?: ListenerCounters;
  /**
   * Replaces the certificate for new connections; existing connections continue with the old
   * certificate. Resolves when the new certificate is in use. Rejects with `InvalidArgument` if the
   * certificate or key is invalid, and with `Unavailable` if the transport does not use TLS.
   */
  setIdentity(identity: TlsIdentity): Promise<void>;
  /**
   * Yields each connection after its handshake. Ends when the listener is closed. Only one
   * iteration is allowed.
   */
  accept(): AsyncIterable<Connection>;
  /**
   * Stops listening, and closes all connections like {@link Connection.close}, with up to `grace`
   * ms (default 5,000) to complete. Idempotent.
   */
  close(options?: { readonly grace?: number }): Promise<void>;
}

/** Dials and accepts connections over one protocol. */
export interface Transport {
  /** Protocol of the connections. */
  readonly protocol: "quic" | "tcp";
  /**
   * Set to `quic` if QUIC was requested but is not available, and this transport dials instead of
   * it. Its `listen` rejects with `Unavailable`. Otherwise absent.
   */
  readonly insteadOf?: "quic";
  /**
   * Connects to a peer. Rejects with:
   *
   * - `ConnectionRefused`, `Unreachable`, `HandshakeFailed` or `ProtocolNotSupported` if the
   *   connection cannot be established
   * - the signal's reason if it is a `VortexError`, else `Aborted`, when `options.signal` aborts
   * - `InvalidArgument` if `remote` is an IPv6 address with a zone, and the runtime cannot dial
   *   such addresses
   */
  dial(remote: Address, options?: DialOptions): Promise<Connection>;
  /**
   * Starts to listen at a local address; port 0 selects a free port. Rejects with `AddressInUse` if
   * the address is in use or does not belong to this host. Rejects with `InvalidArgument` if an
   * option or the address is invalid, and with `Unavailable` if the transport cannot listen.
   */
  listen(local: Address, options?: ListenOptions): Promise<Listener>;
  /**
   * Releases resources that the transport keeps for later connections, such as UDP sockets for
   * 0-RTT. Afterwards it keeps no such resources. Open connections and listeners are not affected.
   * Absent if the transport keeps nothing but memory. Idempotent.
   */
  close?(): Promise<void>;
}

import type { Transport as ConnectTransport } from "@connectrpc/connect";
import type { Address } from "./address.ts";
import type { Transport } from "./transport.ts";

/**
 * Connects to gRPC servers. The entry point of each runtime (Node, Bun, Deno) supplies an
 * implementation.
 */
export interface GrpcBinding {
  /**
   * Connects to a server. Resolves when a SETTINGS frame has arrived, which proves that the server
   * speaks HTTP/2 (RFC 9113, section 3.4). Rejects with:
   *
   * - `ConnectionRefused`, `Unreachable`, `HandshakeFailed` or `ProtocolNotSupported` if the server
   *   cannot be reached or does not speak HTTP/2
   * - the signal's reason if it is a `VortexError`, else `Aborted`, when `options.signal` aborts
   * - `InvalidArgument` if `remote` is an IPv6 address with a zone, and the runtime cannot dial
   *   such addresses
   */
  dial(remote: Address, options: GrpcDialOptions): Promise<GrpcConnection>;
  /**
   * Loads a transport for pieces that a peer does not serve over gRPC, but over Vortex on TCP.
   * Called at most once per downloader. Absent: such pieces are requested over gRPC. TCP has no
   * TLS, so it is also absent if the options require an authenticated peer.
   */
  tcp?(): Promise<Transport>;
}

/** Options of {@link GrpcBinding.dial}. */
export interface GrpcDialOptions {
  /**
   * Aborts the connection attempt. `dial` then rejects with the signal's reason if it is a
   * `VortexError`, else with `Aborted`.
   */
  readonly signal?: AbortSignal;
  /**
   * Maximum length of a received message, in bytes. A call whose response has a longer message
   * fails before that message is read.
   */
  readonly maxMessageLength: number;
}

/** HTTP/2 connection to one peer. It carries any number of concurrent gRPC calls. */
export interface GrpcConnection {
  /**
   * Creates a Connect transport for one call on this connection.
   *
   * @param onBytes called whenever bytes of the response arrive. Connect delivers only complete
   * messages, so without these calls a slow peer would look like a silent one
   * @param bounds limits of the call. Default: the limits of the connection
   */
  transport(onBytes: () => void, bounds?: GrpcCallBounds): ConnectTransport;
  /**
   * True while the connection accepts new calls. False after a failure, after {@link close}, and
   * after a GOAWAY frame from the peer.
   */
  readonly open: boolean;
  /** Resolves when {@link open} becomes false. Never rejects. */
  readonly closed: Promise<void>;
  /** Closes the connection at once. Calls in flight fail. Idempotent. */
  close(): Promise<void>;
}

/** Limits of one gRPC call, in addition to those of its connection. */
export interface GrpcCallBounds {
  /**
   * Aborts the wait until the peer permits another stream (SETTINGS_MAX_CONCURRENT_STREAMS). Once
   * the stream is open, the signal of the Connect call applies instead. Default: no signal.
   */
  readonly signal?: AbortSignal;
  /** Maximum length of a received message, in bytes. Default: the limit of the connection. */
  readonly maxMessageLength?: number;
  /**
   * Receives the bytes of each message before it is decoded. The callback may keep the chunks. If
   * it throws, the call fails. Default: no callback.
   */
  readonly onMessage?: (chunks: readonly Uint8Array[]) => void;
}

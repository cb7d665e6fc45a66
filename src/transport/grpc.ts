import type { Transport } from "@connectrpc/connect";
import type { Address } from "./address.ts";

/** Dials gRPC servers. The entry point of each runtime supplies an implementation. */
export interface GrpcBinding {
  /**
   * Connects to a server. Resolves when the peer's SETTINGS frame proves that it speaks HTTP/2 (RFC
   * 9113, section 3.4).
   *
   * Rejects with `ConnectionRefused`, `Unreachable`, `HandshakeFailed` or `ProtocolNotSupported`,
   * and when the signal aborts. Also rejects with `InvalidArgument` for an IPv6 address with a
   * zone, where the runtime cannot dial one.
   */
  dial(remote: Address, options: GrpcDialOptions): Promise<GrpcConnection>;
}

/** Options of {@link GrpcBinding.dial}. */
export interface GrpcDialOptions {
  /**
   * Aborts the attempt. `dial` rejects with the signal's reason if it is a `VortexError`, else with
   * `Aborted`.
   */
  readonly signal?: AbortSignal;
  /** Maximum length of a received message, in bytes; a longer one is rejected before it is read. */
  readonly maxMessageLength: number;
}

/** HTTP/2 connection to one peer, for any number of concurrent calls. */
export interface GrpcConnection {
  /**
   * Creates a Connect transport for one call on this connection.
   *
   * @param onBytes called whenever bytes arrive for the call. Connect delivers a message only as a
   * whole, and before that a slow peer must be distinguished from a silent one.
   */
  transport(onBytes: () => void, bounds?: GrpcCallBounds): Transport;
  /**
   * False once the connection accepts no calls: after a failure, `close()` or the peer's GOAWAY.
   */
  readonly open: boolean;
  /** Resolves when {@link open} becomes false. Never rejects. */
  readonly closed: Promise<void>;
  /** Closes the connection at once, together with the calls in flight. Idempotent. */
  close(): Promise<void>;
}

/** Limits of one call, in addition to those of its connection. */
export interface GrpcCallBounds {
  /**
   * Aborts the wait for a free stream of the peer. Once the stream is open, the signal of the
   * Connect call applies instead. Default: no signal.
   */
  readonly signal?: AbortSignal;
  /** Maximum length of a message, in bytes. Default: the one of the connection. */
  readonly maxMessageLength?: number;
  /**
   * Receives each message before it is decoded, as chunks that it may keep. An exception fails the
   * call. Default: none.
   */
  readonly onMessage?: (chunks: readonly Uint8Array[]) => void;
}

import type { Transport } from "@connectrpc/connect";
import type { Address } from "./address.ts";

/** Makes connections to gRPC servers; each runtime's face supplies one. */
export interface GrpcBinding {
  /**
   * Resolves when the peer has shown that it speaks HTTP/2, by its SETTINGS (RFC 9113, section 3.4).
   *
   * Rejects with `ConnectionRefused`, `Unreachable`, `HandshakeFailed`, `ProtocolNotSupported`, or as the signal says; with
   * `InvalidArgument` for an IPv6 address with a zone where the runtime dials none.
   */
  dial(remote: Address, options: GrpcDialOptions): Promise<GrpcConnection>;
}

/** What dialling is told. */
export interface GrpcDialOptions {
  /** Ends the attempt; the promise rejects with the signal's reason if that is a `VortexError`, else `Aborted`. */
  readonly signal?: AbortSignal;
  /** Greatest message that is accepted, in bytes; a longer one is refused before it is read. */
  readonly maxMessageLength: number;
}

/** An HTTP/2 connection to one peer, for any number of calls at a time. */
export interface GrpcConnection {
  /**
   * A Connect transport on this connection, for one call. `onBytes` is told of everything that arrives for that call: Connect
   * hands an answer over only when all of it is there, and silence is to be told from a slow peer before that.
   */
  transport(onBytes: () => void, bounds?: GrpcCallBounds): Transport;
  /** Whether it takes calls: false once it has failed, was closed, or the peer announced that it will end it. */
  readonly open: boolean;
  /** Resolves, never rejects, when it takes no more calls. */
  readonly closed: Promise<void>;
  /** Ends the connection at once, and the calls under way with it. Idempotent. */
  close(): Promise<void>;
}

/** What one call and its answers are held to, beyond what holds for the connection. */
export interface GrpcCallBounds {
  /** Ends the wait until the peer takes one more stream; what ends the call after that is Connect's own. Default: nothing does. */
  readonly signal?: AbortSignal;
  /** Greatest message, in bytes. Default: the connection's. */
  readonly maxMessageLength?: number;
  /** Sees each message before it is decoded, as chunks that are its own. What it throws ends the call. Default: nobody does. */
  readonly onMessage?: (chunks: readonly Uint8Array[]) => void;
}

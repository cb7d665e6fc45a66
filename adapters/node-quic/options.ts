import { requireInteger } from "../../src/piece.ts";

/**
 * Tuning of QUIC by `node:quic`. What quiche's options have and these do not, the runtime decides by itself: it looks for the
 * greatest datagrams that the path carries, and asks no client to prove its address.
 *
 * @experimental As `node:quic` is.
 */
export interface NodeQuicOptions {
  /**
   * Congestion control. Default `adaptive`: CUBIC where a round trip takes less than 1.5 ms, else BBR, which loses little to
   * packets that get lost on the way.
   */
  readonly congestionControl?: "adaptive" | "bbr" | "cubic";
  /** Bytes that a peer may have under way on one stream. Default 16 MiB. */
  readonly streamWindow?: number;
  /** Bytes that a peer may have under way on one connection. Default 24 MiB. */
  readonly connectionWindow?: number;
  /**
   * Bytes that are held for readers that are slower than their peers, 64 KiB to 4 GiB: by each stream of a connection that was
   * dialled, and by all streams together of one that was accepted. The stream that goes beyond fails with `LimitExceeded`,
   * since this runtime takes in whatever comes, and has no means to let the peer wait. Default 65 MiB, which holds the longest
   * piece.
   */
  readonly unreadLimit?: number;
  /** Send and receive buffers of the UDP socket, in bytes; the kernel may grant less. Linux only. Default 4 MiB. */
  readonly socketBuffer?: number;
  /**
   * Milliseconds of silence after which a connection is lost. Default 60,000, as stock peers. A server of this runtime also ends
   * every connection on which no stream has moved for 60 seconds, whatever is set here and whatever signs of life come.
   */
  readonly idleTimeout?: number;
  /** Milliseconds between two signs of life that a client asks for. Default 3,000, as stock peers. */
  readonly keepAlive?: number;
  /** Milliseconds for the handshake. Default 10,000. */
  readonly handshakeTimeout?: number;
}

/** {@link NodeQuicOptions} with the defaults filled in. */
export type NodeQuicSettings = Required<NodeQuicOptions>;

/**
 * Fills the defaults in.
 * @throws `InvalidArgument` for a value out of its range
 */
export function nodeQuicSettings(options: NodeQuicOptions = {}): NodeQuicSettings {
  const settings: NodeQuicSettings = {
    congestionControl: options.congestionControl ?? "adaptive",
    streamWindow: options.streamWindow ?? 16 * 1024 * 1024,
    connectionWindow: options.connectionWindow ?? 24 * 1024 * 1024,
    unreadLimit: options.unreadLimit ?? 65 * 1024 * 1024,
    socketBuffer: options.socketBuffer ?? 4 * 1024 * 1024,
    idleTimeout: options.idleTimeout ?? 60_000,
    keepAlive: options.keepAlive ?? 3_000,
    handshakeTimeout: options.handshakeTimeout ?? 10_000,
  };
  requireInteger("streamWindow", settings.streamWindow, 16 * 1024, 2 ** 32 - 1);
  requireInteger("connectionWindow", settings.connectionWindow, 16 * 1024, 2 ** 32 - 1);
  requireInteger("unreadLimit", settings.unreadLimit, 64 * 1024, 2 ** 32);
  requireInteger("socketBuffer", settings.socketBuffer, 4096, 2 ** 30);
  requireInteger("idleTimeout", settings.idleTimeout, 100, 3_600_000);
  requireInteger("keepAlive", settings.keepAlive, 50, 3_600_000);
  requireInteger("handshakeTimeout", settings.handshakeTimeout, 100, 600_000);
  return settings;
}

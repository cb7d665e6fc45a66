import { requireInteger } from "../../src/piece.ts";

/**
 * Tuning of QUIC on `node:quic`. The other options of quiche are missing: the runtime discovers
 * the path MTU itself, and never sends Retry to validate a client's address.
 *
 * @experimental Like `node:quic` itself.
 */
export interface NodeQuicOptions {
  /**
   * Congestion control algorithm. Default `adaptive`: CUBIC for round trips below 1.5 ms, otherwise
   * BBR, which tolerates packet loss.
   */
  readonly congestionControl?: "adaptive" | "bbr" | "cubic";
  /** Flow-control window of a stream, in bytes. Default 16 MiB. */
  readonly streamWindow?: number;
  /** Flow-control window of a connection, in bytes. Default 24 MiB. */
  readonly connectionWindow?: number;
  /**
   * Maximum number of received bytes that wait for a slow reader, 64 KiB to 4 GiB. Applies to each
   * stream of a dialled connection, and to all streams together of an accepted one.
   *
   * A stream that exceeds it fails with `LimitExceeded`: this runtime buffers everything the peer
   * sends, and cannot slow it down. Default 65 MiB, which holds the longest piece.
   */
  readonly unreadLimit?: number;
  /**
   * Send and receive buffers of the UDP socket, in bytes. The kernel may grant less. Linux only.
   * Default 4 MiB.
   */
  readonly socketBuffer?: number;
  /**
   * Idle timeout of a connection in ms. Default 60,000, like dfdaemon. In addition, a server of
   * this runtime ends every connection without stream activity for 60 s, whatever this option and
   * keep-alives say.
   */
  readonly idleTimeout?: number;
  /** Interval in ms at which a client sends a PING. Default 3,000, like dfdaemon. */
  readonly keepAlive?: number;
  /** Handshake timeout in ms. Default 10,000. */
  readonly handshakeTimeout?: number;
}

/** {@link NodeQuicOptions} with all defaults applied. */
export type NodeQuicSettings = Required<NodeQuicOptions>;

/**
 * Applies the defaults.
 *
 * @throws `InvalidArgument` for a value out of range
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

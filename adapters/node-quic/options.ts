import { requireInteger } from "../../src/arguments.ts";
import type { Resolved } from "../../src/resolved.ts";

/**
 * Tuning of the QUIC transport that uses `node:quic`. It has fewer options than the transport on
 * quiche: Bun discovers the path MTU itself, and never validates client addresses with Retry
 * packets.
 *
 * @experimental May change in a minor version, like `node:quic` itself.
 */
export interface NodeQuicOptions {
  /**
   * Congestion control algorithm. The default `adaptive` uses CUBIC if the round-trip time is below
   * 1.5 ms. Otherwise it uses BBR, which tolerates packet loss.
   */
  readonly congestionControl?: "adaptive" | "bbr" | "cubic" | undefined;
  /** Flow-control window of a stream, in bytes. Default 16 MiB. */
  readonly streamWindow?: number | undefined;
  /** Flow-control window of a connection, in bytes. Default 24 MiB. */
  readonly connectionWindow?: number | undefined;
  /**
   * Maximum number of received bytes that the application has not read, 64 KiB to 4 GiB. The limit
   * applies to each stream of an outgoing connection, and to the sum of all streams of an incoming
   * connection.
   *
   * If a stream exceeds the limit, its reads fail with `LimitExceeded`. Bun buffers everything that
   * the peer sends, and cannot slow the peer down. Default 65 MiB, which is more than the longest
   * piece.
   */
  readonly unreadLimit?: number | undefined;
  /**
   * Size in bytes of the kernel's send buffer for the UDP socket, and also of its receive buffer.
   * The kernel may grant less. Takes effect only on Linux. Default 4 MiB.
   */
  readonly socketBuffer?: number | undefined;
  /**
   * Idle timeout of a connection in ms (RFC 9000, section 10.1). Default 60,000, like dfdaemon.
   *
   * In addition, a server on Bun ends every connection without stream activity for 60 s. Neither
   * this option nor PING frames prevent that.
   */
  readonly idleTimeout?: number | undefined;
  /** Interval in ms at which a client sends PING frames. Default 3,000, like dfdaemon. */
  readonly keepAlive?: number | undefined;
  /**
   * Time in ms after which an incomplete handshake fails, on clients and servers. Default 10,000.
   */
  readonly handshakeTimeout?: number | undefined;
}

/** {@link NodeQuicOptions} with a value for every option. */
export type NodeQuicSettings = Resolved<NodeQuicOptions>;

/**
 * Fills in the default of each option that is not set.
 *
 * @throws `InvalidArgument` if an option is out of range
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

/**
 * QUIC transport parameters, independent of the binding. The defaults suit local networks and long
 * links. A binding that does not support an option ignores it and chooses for itself:
 *
 * - All bindings support `congestionControl`, `idleTimeout`, `keepAlive` and `handshakeTimeout`.
 * - quiche and `node:quic` also support `streamWindow`, `connectionWindow` and `socketBuffer`.
 * - Only quiche supports `udpPayloadSize` and `ackThreshold`.
 */
export interface QuicTuning {
  /**
   * Congestion controller. `bbr` keeps a lossy link busy: at 50 ms and 1 % loss its throughput is
   * twenty times that of `cubic`. On loopback it is some 15 % lower.
   *
   * Default: `bbr`. Exceptions, with CUBIC: `node:quic` below a round trip of 1.5 ms, and Deno's
   * QUIC for a server that listens on loopback.
   */
  readonly congestionControl?: "bbr" | "cubic";
  /**
   * Maximum UDP payload to send, in bytes, 1,200 to 16,383. Cost is per packet, so larger is
   * faster. A value above 1,350 is probed with one datagram. If large datagrams are lost later, the
   * size falls back to 1,350. Default `auto`: 16,000 within one host, else 1,452.
   */
  readonly udpPayloadSize?: number | "auto";
  /**
   * Flow control window of a stream, in bytes, at least 16 KiB. Limits the throughput on long round
   * trips, and the memory for a slow reader. Default 16 MiB.
   */
  readonly streamWindow?: number;
  /**
   * Flow control window of a connection, in bytes, at least 16 KiB. Limits the same as
   * {@link streamWindow}, over all streams. Default 24 MiB.
   */
  readonly connectionWindow?: number;
  /**
   * Size of the send buffer and of the receive buffer of the UDP socket, in bytes, 4 KiB to 1 GiB.
   * They absorb bursts. The kernel may grant less. Default 4 MiB.
   */
  readonly socketBuffer?: number;
  /**
   * Number of received datagrams after which an acknowledgement is sent, 1 to 64. It is sent after
   * 1 ms at the latest. More save packets on both sides; fewer report losses sooner. Default 8.
   */
  readonly ackThreshold?: number;
  /**
   * Silence after which a connection is lost, in ms, 100 to 3,600,000. Default 60,000, like
   * dfdaemon.
   */
  readonly idleTimeout?: number;
  /**
   * Silence after which a client sends a PING, in ms, 50 to 3,600,000. Default 3,000, like
   * dfdaemon.
   */
  readonly keepAlive?: number;
  /** Time limit for the handshake, in ms, 100 to 600,000. Default 10,000. */
  readonly handshakeTimeout?: number;
}

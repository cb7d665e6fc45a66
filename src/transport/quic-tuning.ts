import { type Checks, integer, oneOf } from "../arguments.ts";
/**
 * QUIC transport parameters. The defaults suit both local networks and links with a long round-trip
 * time. If a QUIC implementation does not support an option, it ignores the option and uses its
 * built-in value:
 *
 * - All implementations support `congestionControl`, `idleTimeout`, `keepAlive` and
 *   `handshakeTimeout`.
 * - quiche and `node:quic` also support `streamWindow`, `connectionWindow` and `socketBuffer`.
 * - Only quiche supports `udpPayloadSize` and `ackThreshold`.
 */
export interface QuicTuning {
  /**
   * Congestion controller. `bbr` uses the full rate of a link despite packet loss. With a delay of
   * 50 ms and 1 % loss, the throughput of `bbr` is twenty times that of `cubic`. On loopback, the
   * throughput of `bbr` is about 15 % lower.
   *
   * Default: `bbr`, with two exceptions. `node:quic` uses CUBIC while the round-trip time is below
   * 1.5 ms. Deno's QUIC uses CUBIC for a server that listens on loopback.
   */
  readonly congestionControl?: "bbr" | "cubic" | undefined;
  /**
   * Maximum length of the payload of a sent UDP datagram, in bytes, 1,200 to 16,383. Larger
   * datagrams are faster, because most of the cost is per datagram.
   *
   * A length above 1,350 bytes is first probed with one datagram. If large datagrams are lost
   * later, the length falls back to 1,350 bytes. Default `auto`: 16,000 bytes if the peer is on the
   * same host, else 1,452 bytes.
   */
  readonly udpPayloadSize?: number | "auto" | undefined;
  /**
   * Flow control window of a stream, in bytes, at least 16 KiB. It limits the throughput at a long
   * round-trip time, and the memory for data that a slow reader has not read. Default 16 MiB.
   */
  readonly streamWindow?: number | undefined;
  /**
   * Flow control window of a connection over all its streams, in bytes, at least 16 KiB. It limits
   * throughput and memory like {@link streamWindow}. Default 24 MiB.
   */
  readonly connectionWindow?: number | undefined;
  /**
   * Size of the send buffer and of the receive buffer of the UDP socket, in bytes, 4 KiB to 1 GiB.
   * Large buffers prevent packet loss in bursts. The kernel may allocate less. Default 4 MiB.
   */
  readonly socketBuffer?: number | undefined;
  /**
   * Number of received datagrams after which an acknowledgement is sent, 1 to 64. Default 8. Even
   * with fewer datagrams, an acknowledgement is sent after 1 ms. A high number saves packets on
   * both sides; a low number reports losses sooner.
   */
  readonly ackThreshold?: number | undefined;
  /**
   * Time without any packet from the peer after which the connection counts as lost, in ms, 100 to
   * 3,600,000. Default 60,000, like dfdaemon.
   */
  readonly idleTimeout?: number | undefined;
  /**
   * Time without any packet after which a client sends a PING frame, in ms, 50 to 3,600,000.
   * Default 3,000, like dfdaemon.
   */
  readonly keepAlive?: number | undefined;
  /** Maximum duration of the handshake, in ms, 100 to 600,000. Default 10,000. */
  readonly handshakeTimeout?: number | undefined;
}

/**
 * Range checks for the fields of {@link QuicTuning}. A value out of range throws `InvalidArgument`.
 * The ranges are the widest of all bindings; each binding then checks its own, narrower ranges.
 */
export const quicChecks: Checks<QuicTuning> = {
  congestionControl: oneOf("bbr", "cubic"),
  udpPayloadSize: (name, value) => {
    if (value !== "auto") integer(1)(name, value);
  },
  streamWindow: integer(1),
  connectionWindow: integer(1),
  socketBuffer: integer(1),
  ackThreshold: integer(1),
  idleTimeout: integer(1),
  keepAlive: integer(1),
  handshakeTimeout: integer(1),
};

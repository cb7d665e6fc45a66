/**
 * How QUIC behaves, whichever binding runs it. The defaults suit local networks and long links. What a binding has no means for, it
 * decides by itself; the last column of the table says which heed it.
 *
 * | | effect | default | heeded by |
 * | --- | --- | --- | --- |
 * | `congestionControl` | what a loss means to a sender | `bbr`; CUBIC with `node:quic` below 1.5 ms, with Deno's on loopback | all |
 * | `udpPayloadSize` | cost, which is by packet | 16,000 on one host, 1,452 elsewhere, probed | quiche |
 * | `streamWindow`, `connectionWindow` | bytes under way over a long round trip, memory of a slow reader | 16, 24 MiB | quiche, `node:quic` |
 * | `socketBuffer` | bursts that the kernel holds | 4 MiB | quiche, `node:quic` |
 * | `ackThreshold` | packets spent on acknowledgements | 8 | quiche |
 * | `idleTimeout`, `keepAlive`, `handshakeTimeout` | when a silent peer is lost | 60 s, 3 s, 10 s | all |
 */
export interface QuicTuning {
  /**
   * Congestion control. `bbr` keeps a link with losses busy: over 50 ms and 1 % loss it moves twenty times what `cubic` does, for
   * some 15 % less on loopback. Default: `bbr`, but CUBIC with `node:quic` where a round trip takes less than 1.5 ms, and with Deno's
   * QUIC for a server that listens on loopback.
   */
  readonly congestionControl?: "bbr" | "cubic";
  /**
   * Greatest UDP payload that is sent, in bytes, 1,200 to 16,383. Above 1,350 one datagram finds out whether the path carries it,
   * and if large ones vanish later, 1,350 is what remains. Default `auto`.
   */
  readonly udpPayloadSize?: number | "auto";
  /** Bytes that a peer may send on one stream before they are read, at least 16 KiB. Default 16 MiB. */
  readonly streamWindow?: number;
  /** Bytes that a peer may send on one connection before they are read, at least 16 KiB. Default 24 MiB. */
  readonly connectionWindow?: number;
  /** Send and receive buffers of the UDP socket, in bytes, 4 KiB to 1 GiB; the kernel may grant less. Default 4 MiB. */
  readonly socketBuffer?: number;
  /**
   * Datagrams that are taken in before they are acknowledged, 1 to 64, or fewer after a millisecond. More save packets on both
   * sides; fewer tell a sender of losses sooner. Default 8.
   */
  readonly ackThreshold?: number;
  /** Milliseconds of silence after which a connection is lost, 100 to 3,600,000. Default 60,000, as stock peers. */
  readonly idleTimeout?: number;
  /** Milliseconds of silence after which a client asks whether the peer is there, 50 to 3,600,000. Default 3,000, as stock peers. */
  readonly keepAlive?: number;
  /** Milliseconds for the handshake, 100 to 600,000. Default 10,000. */
  readonly handshakeTimeout?: number;
}

import type { IdVersion } from "../ids.ts";
import type { UnverifiedPieces } from "../piece.ts";
import type { ProtocolChoice } from "../transport/protocol.ts";

/**
 * Configuration with all defaults applied. Its keys are those of Dragonfly's `dfdaemon.yaml`.
 * Options that stock Dragonfly does not have are in the section `vortexPeer`. Durations are in ms,
 * sizes in bytes.
 */
export interface Config {
  /** Address and name of this host. */
  readonly host: {
    /**
     * IP address at which peers reach this host, sent in gRPC responses. Default: the local address
     * of the gRPC connection on which the request arrived.
     */
    readonly ip: string | undefined;
    /** Host name from which the host ID and peer IDs of this host are built. Default: undefined. */
    readonly hostname: string | undefined;
  };
  /** Settings for downloading pieces from peers. */
  readonly download: {
    /** Protocol for downloading pieces. Default `tcp`, like stock Dragonfly. */
    readonly protocol: ProtocolChoice;
    /** Maximum download rate over all tasks together, in bytes/s, at least 1. Default: no limit. */
    readonly bandwidthLimit: number | undefined;
    /** Maximum time for downloading one piece, in ms, 1 ms to 30 days. Default 360,000. */
    readonly pieceTimeout: number;
    /**
     * Maximum number of pieces of one task that are downloaded concurrently, 1 to 1,024. Default 8.
     */
    readonly concurrentPieceCount: number;
  };
  /** Settings for uploading pieces to peers, and for the gRPC server. */
  readonly upload: {
    /**
     * Maximum upload rate over all responses together, in bytes/s, at least 1. Default: no limit.
     */
    readonly bandwidthLimit: number | undefined;
    /** Local address, port and mutual TLS files of the gRPC server. */
    readonly server: {
      /**
       * Local address that the gRPC server listens at. Default: the value of `storage.server.ip`.
       */
      readonly ip: string | undefined;
      /**
       * Port that the gRPC server listens at, 0 to 65535. Port 0 selects a free port. Default 4000.
       */
      readonly port: number;
    } & MutualTlsFiles;
    /** Mutual TLS files of clients, for gRPC and for QUIC. */
    readonly client: MutualTlsFiles;
  };
  /** Settings of the servers that speak the Vortex protocol. */
  readonly storage: {
    /** Local address and ports of the Vortex servers. */
    readonly server: {
      /**
       * For a server, the local address to listen at. For a `StorageClient`, the address of the
       * peer. Default: undefined, see `network.enableIPv6`.
       */
      readonly ip: string | undefined;
      /** TCP port of the Vortex server, 0 to 65535. Default 4005. */
      readonly tcpPort: number;
      /** UDP port of the Vortex server over QUIC, 0 to 65535. Default 4006. */
      readonly quicPort: number;
    };
  };
  /** Settings of the network. */
  readonly network: {
    /**
     * True to listen at `::`, all IPv4 and IPv6 addresses of this host, where no other address is
     * configured. Default false: at `0.0.0.0`.
     */
    readonly enableIPv6: boolean;
  };
  /** Options of this library that stock Dragonfly does not have. */
  readonly vortexPeer: {
    /** Maximum time for establishing a connection, in ms, 1 ms to 30 days. Default 2,000. */
    readonly connectTimeout: number;
    /**
     * Maximum time without progress on a stream, in ms, 1 ms to 1 day. Default 30,000. In a client,
     * the time until the next bytes of a response arrive. In a server, the time until the peer
     * accepts the next chunk.
     */
    readonly stallTimeout: number;
    /**
     * Time in ms that a task waits after all its parents have failed, in case a parent recovers. 0
     * to 1 day; default 60,000. 0 fails the task at once.
     */
    readonly patience: number;
    /** Policy for pieces that a peer announces without a digest. Default `accept`. */
    readonly unverifiedPieces: UnverifiedPieces;
    /**
     * Maximum time for a request to arrive at the server completely, in ms, 1 ms to 1 day. Default
     * 10,000.
     */
    readonly requestTimeout: number;
    /** Maximum number of concurrent requests to one parent, 1 to 1,000,000. Default 32. */
    readonly parentConcurrency: number;
    /**
     * Maximum number of concurrent connections that the server accepts for each protocol, 1 to
     * 1,000,000. Default 1,024.
     */
    readonly maxConnections: number;
    /**
     * Maximum number of concurrent streams on one connection to the server, 1 to 1,000,000. Default
     * 128.
     */
    readonly maxStreams: number;
    /**
     * Version of dfdaemon whose task IDs the gRPC server derives: `1.5.3`, also for later versions,
     * or `1.5.2`, also for earlier ones. Default `1.5.3`.
     */
    readonly idVersion: IdVersion;
    /** Settings of the connection pool of clients. */
    readonly pool: {
      /** Maximum number of concurrent connections to one address, 1 to 64. Default 1. */
      readonly connectionsPerAddress: number;
      /**
       * Maximum number of peer addresses with pooled connections, 1 to 1,000,000. Default 2,000.
       */
      readonly capacity: number;
      /**
       * Time without requests after which a connection is closed, in ms, 1 ms to 30 days. Default
       * 420,000.
       */
      readonly idleTimeout: number;
      /**
       * Interval between searches for idle connections to close, in ms, 1 ms to 30 days. Default
       * 60,000.
       */
      readonly cleanupInterval: number;
    };
    /** Settings of QUIC clients and servers. */
    readonly quic: {
      /** True to send 0-RTT requests as a client, and to accept them as a server. Default true. */
      readonly earlyData: boolean;
      /**
       * Name of the PEM file with the certificate authorities that may issue certificates of peers.
       * Default: the authorities that the runtime trusts.
       */
      readonly caCert: string | undefined;
      /**
       * SHA-256 fingerprints of certificates. The certificate of a peer must match one of them.
       * Default: fingerprints are not checked.
       */
      readonly fingerprints: readonly string[] | undefined;
      /** False to accept any certificate of a peer, like stock Dragonfly. Default true. */
      readonly verify: boolean;
      /**
       * Congestion controller, see `QuicTuning.congestionControl`. Default: depends on the QUIC
       * implementation.
       */
      readonly congestionControl: "bbr" | "cubic" | undefined;
      /**
       * Maximum length of the payload of a sent UDP datagram, in bytes, 1,200 to 16,383. Default:
       * probed for each peer, see `QuicTuning.udpPayloadSize`.
       */
      readonly udpPayloadSize: number | undefined;
      /** Flow control window of a stream, in bytes, 16 KiB to 4 GiB. Default 16 MiB. */
      readonly streamWindow: number | undefined;
      /**
       * Flow control window of a connection over all its streams, in bytes, 16 KiB to 4 GiB.
       * Default 24 MiB.
       */
      readonly connectionWindow: number | undefined;
      /**
       * Size of the send buffer and of the receive buffer of the UDP socket, in bytes, 4 KiB to 1
       * GiB. Default 4 MiB.
       */
      readonly socketBuffer: number | undefined;
      /** Number of received datagrams after which an ACK frame is sent, 1 to 64. Default 8. */
      readonly ackThreshold: number | undefined;
    };
  };
}

/**
 * Names of the PEM files for mutual TLS. If any of the three is missing, the others are ignored,
 * like in stock Dragonfly.
 */
export interface MutualTlsFiles {
  /**
   * Name of the file with the certificate authorities that must have issued the peer's certificate.
   */
  readonly caCert: string | undefined;
  /** Name of the file with the certificate chain that this host presents. */
  readonly cert: string | undefined;
  /** Name of the file with the private key of the certificate in `cert`. */
  readonly key: string | undefined;
}

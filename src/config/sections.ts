import type { ProtocolChoice } from "../transport/protocol.ts";

/**
 * Configuration with all defaults applied. The keys are those of Dragonfly's `dfdaemon.yaml`;
 * options that stock Dragonfly lacks are in `vortexPeer`. Durations are in ms, sizes in bytes.
 */
export interface Config {
  /** Identity of this host. */
  readonly host: {
    /**
     * IP address at which peers reach this host, for gRPC answers. Default: the local address of
     * the peer's gRPC connection.
     */
    readonly ip: string | undefined;
    /** Host name in the IDs of this host and its peers. No default. */
    readonly hostname: string | undefined;
  };
  /** Settings for fetching pieces. */
  readonly download: {
    /** Protocol that fetches pieces. Default `tcp`, like stock Dragonfly. */
    readonly protocol: ProtocolChoice;
    /** Maximum download rate over all tasks, in bytes/s, at least 1. Default: no limit. */
    readonly bandwidthLimit: number | undefined;
    /** Time limit for one piece, in ms, 1 ms to 30 days. Default 360,000. */
    readonly pieceTimeout: number;
    /** Maximum number of concurrent pieces of one task, 1 to 1,024. Default 8. */
    readonly concurrentPieceCount: number;
  };
  /** Settings for serving pieces, and for gRPC. */
  readonly upload: {
    /** Maximum upload rate over all answers, in bytes/s, at least 1. Default: no limit. */
    readonly bandwidthLimit: number | undefined;
    /** Address, port and TLS files of the gRPC server. */
    readonly server: {
      /** Local address of the gRPC server. Default: `storage.server.ip`. */
      readonly ip: string | undefined;
      /** Port of the gRPC server, 0 to 65535. Default 4000. */
      readonly port: number;
    } & MutualTlsFiles;
    /** TLS files of clients, over gRPC and over QUIC. */
    readonly client: MutualTlsFiles;
  };
  /** Settings of the Vortex servers. */
  readonly storage: {
    /** Address and ports of the Vortex servers. */
    readonly server: {
      /** Local address to listen on, and address of the peer for a `StorageClient`. No default. */
      readonly ip: string | undefined;
      /** Port of Vortex over TCP, 0 to 65535. Default 4005. */
      readonly tcpPort: number;
      /** Port of Vortex over QUIC, 0 to 65535. Default 4006. */
      readonly quicPort: number;
    };
  };
  /** Options without a key in stock Dragonfly. */
  readonly vortexPeer: {
    /** Time limit for establishing a connection, in ms, 1 ms to 30 days. Default 2,000. */
    readonly connectTimeout: number;
    /**
     * Time limit without progress, in ms, 1 ms to 1 day. Default 30,000. A client waits that long
     * for a byte from the peer, a server for the peer to accept one.
     */
    readonly stallTimeout: number;
    /**
     * Time in ms that a task without parents waits for one to come back, 0 to 1 day. Default
     * 60,000.
     */
    readonly patience: number;
    /** Time limit for a request to arrive at the server, in ms, 1 ms to 1 day. Default 10,000. */
    readonly requestTimeout: number;
    /** Maximum number of concurrent requests to one parent, 1 to 1,000,000. Default 32. */
    readonly parentConcurrency: number;
    /** Maximum number of concurrent connections to the server, 1 to 1,000,000. Default 1,024. */
    readonly maxConnections: number;
    /** Maximum number of concurrent streams of a connection, 1 to 1,000,000. Default 128. */
    readonly maxStreams: number;
    /** Connection pool of clients. */
    readonly pool: {
      /** Maximum number of connections to one address, 1 to 64. Default 1. */
      readonly connectionsPerAddress: number;
      /** Maximum number of peers in the pool, 1 to 1,000,000. Default 2,000. */
      readonly capacity: number;
      /** Idle time after which a connection is closed, in ms, 1 ms to 30 days. Default 420,000. */
      readonly idleTimeout: number;
      /** Interval between checks for idle connections, in ms, 1 ms to 30 days. Default 60,000. */
      readonly cleanupInterval: number;
    };
    /** Options of QUIC. */
    readonly quic: {
      /** True to send and accept 0-RTT requests. Default true. */
      readonly earlyData: boolean;
      /** PEM file with the certificate authorities for peers. Default: those of the runtime. */
      readonly caCert: string | undefined;
      /** SHA-256 fingerprints of acceptable peer certificates; one must match. Default: none. */
      readonly fingerprints: readonly string[] | undefined;
      /** False to accept any certificate, like stock Dragonfly. Default true. */
      readonly verify: boolean;
      /** Congestion controller, see `QuicTuning`. Default: depends on the binding. */
      readonly congestionControl: "bbr" | "cubic" | undefined;
      /** Maximum UDP payload to send, in bytes, 1,200 to 16,383. Default: probed for each peer. */
      readonly udpPayloadSize: number | undefined;
      /** Flow control window of a stream, in bytes, 16 KiB to 4 GiB. Default 16 MiB. */
      readonly streamWindow: number | undefined;
      /** Flow control window of a connection, in bytes, 16 KiB to 4 GiB. Default 24 MiB. */
      readonly connectionWindow: number | undefined;
      /** Size of each buffer of the UDP socket, in bytes, 4 KiB to 1 GiB. Default 4 MiB. */
      readonly socketBuffer: number | undefined;
      /** Number of received datagrams per acknowledgement, 1 to 64. Default 8. */
      readonly ackThreshold: number | undefined;
    };
  };
}

/** Names of PEM files for mutual TLS. Like in stock Dragonfly, an incomplete set is ignored. */
export interface MutualTlsFiles {
  /** File with the certificate authorities that must have issued the peer's certificate. */
  readonly caCert: string | undefined;
  /** File with the certificate chain of this side. */
  readonly cert: string | undefined;
  /** File with the private key of `cert`. */
  readonly key: string | undefined;
}

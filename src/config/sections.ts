import type { ProtocolChoice } from "../transport/protocol.ts";

/**
 * What this library takes from Dragonfly's `dfdaemon.yaml`, under the same keys, and in `vortexPeer` what stock Dragonfly has no
 * key for. Every default is filled in. Durations are in milliseconds, sizes in bytes.
 */
export interface Config {
  /** What this host is called. */
  readonly host: {
    /** The IP address at which peers reach this host, as answers over gRPC name it. Default: the one at which they asked. */
    readonly ip: string | undefined;
    /** The name of this host in its ids. No default. */
    readonly hostname: string | undefined;
  };
  /** How pieces are fetched. */
  readonly download: {
    /** Default `tcp`, as stock Dragonfly. */
    readonly protocol: ProtocolChoice;
    /** Bytes a second that all tasks may take together, at least 1. Default: no limit. */
    readonly bandwidthLimit: number | undefined;
    /** 1 ms to 30 days. Default 360 s. */
    readonly pieceTimeout: number;
    /** Pieces of one task that are fetched at a time, 1 to 1,024. Default 8. */
    readonly concurrentPieceCount: number;
  };
  /** How pieces are served. */
  readonly upload: {
    /** Bytes a second that all answers may take together, at least 1. Default: no limit. */
    readonly bandwidthLimit: number | undefined;
    /** The gRPC service. */
    readonly server: {
      /** Where the gRPC service listens, if elsewhere than `storage.server.ip` says. */
      readonly ip: string | undefined;
      /** Port of the gRPC service, 0 to 65535. Default 4000. */
      readonly port: number;
    } & MutualTlsFiles;
    /** How peers are asked over gRPC, and over QUIC. */
    readonly client: MutualTlsFiles;
  };
  /** Where pieces are served over the Vortex protocol. */
  readonly storage: {
    /** Its address and ports. */
    readonly server: {
      /** Where to listen, and the peer that a `StorageClient` asks. No default. */
      readonly ip: string | undefined;
      /** 0 to 65535. Default 4005. */
      readonly tcpPort: number;
      /** 0 to 65535. Default 4006. */
      readonly quicPort: number;
    };
  };
  /** What stock Dragonfly has no key for. */
  readonly vortexPeer: {
    /** For a connection to be made, 1 ms to 30 days. Default 2 s. */
    readonly connectTimeout: number;
    /** Without a byte from the peer, or without one that it takes, 1 ms to 1 day. Default 30 s. */
    readonly stallTimeout: number;
    /** For which a task waits for its last parents when they are gone, 0 to 1 day. Default 60 s. */
    readonly patience: number;
    /** For a request to arrive at the server, 1 ms to 1 day. Default 10 s. */
    readonly requestTimeout: number;
    /** Requests to one parent at a time, 1 to 1,000,000. Default 32. */
    readonly parentConcurrency: number;
    /** Connections to the server at a time, 1 to 1,000,000. Default 1,024. */
    readonly maxConnections: number;
    /** Streams of one connection to the server at a time, 1 to 1,000,000. Default 128. */
    readonly maxStreams: number;
    /** How connections to peers are kept. */
    readonly pool: {
      /** Connections to one address at a time, 1 to 64. Default 1. */
      readonly connectionsPerAddress: number;
      /** Peers to keep connections to, 1 to 1,000,000. Default 2,000. */
      readonly capacity: number;
      /** Without a request, after which a connection is closed, 1 ms to 30 days. Default 420 s. */
      readonly idleTimeout: number;
      /** Between two looks for idle connections, 1 ms to 30 days. Default 60 s. */
      readonly cleanupInterval: number;
    };
    /** QUIC alone. */
    readonly quic: {
      /** Whether requests may travel with the handshake (0-RTT). Default true. */
      readonly earlyData: boolean;
      /** A PEM file with the certificate authorities that vouch for peers. Default: those of the runtime. */
      readonly caCert: string | undefined;
      /** SHA-256 of the certificates of peers; one must match. Default: none. */
      readonly fingerprints: readonly string[] | undefined;
      /** `false` takes any certificate, as stock Dragonfly does. Default true. */
      readonly verify: boolean;
      /** `bbr` or `cubic`; see `QuicTuning` for this and what follows. Default: the runtime's binding decides. */
      readonly congestionControl: "bbr" | "cubic" | undefined;
      /** Greatest UDP payload to send, 1,200 to 16,383 bytes. Default: found out for each peer. */
      readonly udpPayloadSize: number | undefined;
      /** Bytes under way on one stream, 16 KiB to 4 GiB. Default 16 MiB. */
      readonly streamWindow: number | undefined;
      /** Bytes under way on one connection, 16 KiB to 4 GiB. Default 24 MiB. */
      readonly connectionWindow: number | undefined;
      /** Bytes that the kernel holds for the socket, each way, 4 KiB to 1 GiB. Default 4 MiB. */
      readonly socketBuffer: number | undefined;
      /** Datagrams that are taken in before they are acknowledged, 1 to 64. Default 8. */
      readonly ackThreshold: number | undefined;
    };
  };
}

/** PEM files for mutual TLS. As in stock Dragonfly, they count only when all three are there. */
export interface MutualTlsFiles {
  /** The certificate authorities that vouch for the other side. */
  readonly caCert: string | undefined;
  /** The certificate chain to show. */
  readonly cert: string | undefined;
  /** Its private key. */
  readonly key: string | undefined;
}

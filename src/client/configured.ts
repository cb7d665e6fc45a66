import type { Config } from "../config/config.ts";
import type { MutualTls } from "../config/mutual-tls.ts";
import { quicTuning } from "../config/tuning.ts";
import type { TlsClientOptions } from "../transport/tls.ts";
import type { DownloaderOptions } from "./factory.ts";

/** Contents of the certificate files that a configuration names for a downloader. */
export interface DownloaderFiles {
  /** Client certificate, private key and CA certificate from the files in `upload.client`. */
  readonly mutual?: MutualTls | undefined;
  /** CA certificate from the file in `vortexPeer.quic.caCert`, in PEM format. */
  readonly ca?: string | undefined;
}

/**
 * Converts a configuration to the options of a downloader.
 *
 * The certificate files of `upload.client` apply to gRPC, like in dfdaemon, and to QUIC. For QUIC,
 * the trust settings in `vortexPeer.quic` take precedence.
 */
export function downloaderOptions(config: Config, files: DownloaderFiles = {}): DownloaderOptions {
  const { download, storage, upload, vortexPeer } = config;
  const tls = clientTls(config, files);
  return {
    protocol: download.protocol,
    // Port 0 makes a server take any free port, so the ports of other peers are unknown.
    ports: {
      quic: storage.server.quicPort || undefined,
      tcp: storage.server.tcpPort || undefined,
      grpc: upload.server.port || undefined,
    },
    pieceTimeout: download.pieceTimeout,
    concurrentPieceCount: download.concurrentPieceCount,
    ...(download.bandwidthLimit !== undefined && { rateLimit: download.bandwidthLimit }),
    connectTimeout: vortexPeer.connectTimeout,
    stallTimeout: vortexPeer.stallTimeout,
    patience: vortexPeer.patience,
    unverifiedPieces: vortexPeer.unverifiedPieces,
    parentConcurrency: vortexPeer.parentConcurrency,
    pool: vortexPeer.pool,
    earlyData: vortexPeer.quic.earlyData,
    quic: quicTuning(config),
    ...(tls && { tls }),
    ...(files.mutual && { apiTls: files.mutual }),
  };
}

function clientTls(
  { download, vortexPeer }: Config,
  { mutual, ca }: DownloaderFiles,
): TlsClientOptions | undefined {
  if (download.protocol === "grpc") return mutual;
  // Ignored rather than rejected: TCP has no TLS, and several programs may share the file.
  if (download.protocol === "tcp") return undefined;
  const { fingerprints, verify } = vortexPeer.quic;
  if (!verify) return { verify: false, ...(mutual && { cert: mutual.cert, key: mutual.key }) };
  const trust = {
    ...mutual,
    ...(ca !== undefined && { ca }),
    ...(fingerprints && { fingerprints }),
  };
  return Object.keys(trust).length === 0 ? undefined : trust;
}

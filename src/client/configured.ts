import type { Config } from "../config/config.ts";
import type { MutualTls } from "../config/mutual-tls.ts";
import { quicTuning } from "../config/tuning.ts";
import type { TlsClientOptions } from "../transport/tls.ts";
import type { CreateDownloaderOptions } from "./factory.ts";

/** What a configuration's files hold, for a downloader. */
export interface DownloaderFiles {
  /** Of `upload.client`. */
  readonly mutual?: MutualTls | undefined;
  /** Of `vortexPeer.quic.caCert`. */
  readonly ca?: string | undefined;
}

/**
 * How a configuration says to fetch. The files of `upload.client` are for the Dragonfly API, and so for protocol `grpc`, as in stock
 * Dragonfly, and for QUIC too; `vortexPeer.quic` says for QUIC alone whom to trust, and what it says wins there.
 */
export function downloaderOptions(
  config: Config,
  files: DownloaderFiles = {},
): CreateDownloaderOptions {
  const { download, storage, upload, vortexPeer } = config;
  const tls = clientTls(config, files);
  return {
    protocol: download.protocol,
    ports: { quic: storage.server.quicPort, tcp: storage.server.tcpPort, grpc: upload.server.port },
    pieceTimeout: download.pieceTimeout,
    concurrentPieceCount: download.concurrentPieceCount,
    ...(download.bandwidthLimit !== undefined && { rateLimit: download.bandwidthLimit }),
    connectTimeout: vortexPeer.connectTimeout,
    stallTimeout: vortexPeer.stallTimeout,
    patience: vortexPeer.patience,
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
  // There is no TLS in it, and a file may serve several programs.
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

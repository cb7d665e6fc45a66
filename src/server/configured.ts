import type { Config } from "../config/config.ts";
import { type MutualTls, mutualTlsFiles } from "../config/mutual-tls.ts";
import { quicTuning } from "../config/tuning.ts";
import { VortexError } from "../errors.ts";
import type { TlsServerOptions } from "../transport/tls.ts";
import type { StorageServerOptions } from "./storage-server.ts";

/** Contents of the files that a configuration names, for {@link serverOptions}. */
export interface ServerFiles {
  /** Contents of the mutual TLS files of `upload.server`. */
  readonly mutual?: MutualTls | undefined;
}

/**
 * Converts a configuration to server options, for QUIC, TCP and gRPC at their ports. The caller can
 * omit protocols from the result.
 *
 * With the files of `upload.server`, gRPC uses TLS and requires client certificates, like stock
 * Dragonfly. The same applies to QUIC.
 *
 * @throws `InvalidArgument` if the configuration names these files but their contents are missing,
 * so that a server is never open to all clients by mistake
 */
export function serverOptions(
  config: Config,
  { mutual }: ServerFiles = {},
): Omit<StorageServerOptions, "store"> {
  const { host, upload, storage, vortexPeer } = config;
  if (mutual === undefined && mutualTlsFiles(upload.server) !== undefined) {
    throw new VortexError(
      "InvalidArgument",
      "upload.server: expected the contents of its certificate files, got only their names",
    );
  }
  const tls: TlsServerOptions | undefined = mutual && {
    cert: mutual.cert,
    key: mutual.key,
    clientCa: mutual.ca,
  };
  return {
    ...(storage.server.ip !== undefined && { host: storage.server.ip }),
    quic: { port: storage.server.quicPort, ...quicTuning(config) },
    tcp: { port: storage.server.tcpPort },
    grpc: {
      port: upload.server.port,
      ...(upload.server.ip !== undefined && { host: upload.server.ip }),
      ...(tls && { tls: true }),
    },
    ...(tls && { tls }),
    ...(upload.bandwidthLimit !== undefined && { uploadRateLimit: upload.bandwidthLimit }),
    ...(host.ip !== undefined && { advertisedIp: host.ip }),
    ...(host.hostname !== undefined && { hostname: host.hostname }),
    maxConnections: vortexPeer.maxConnections,
    maxStreams: vortexPeer.maxStreams,
    requestTimeout: vortexPeer.requestTimeout,
    stallTimeout: vortexPeer.stallTimeout,
    earlyData: vortexPeer.quic.earlyData,
  };
}

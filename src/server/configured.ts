import type { Config } from "../config/config.ts";
import { type MutualTls, mutualTlsFiles } from "../config/mutual-tls.ts";
import { quicTuning } from "../config/tuning.ts";
import { VortexError } from "../errors.ts";
import type { TlsServerOptions } from "../transport/tls.ts";
import type { StorageServerOptions } from "./storage-server.ts";

/**
 * Contents of the certificate files that a configuration names, as input of {@link serverOptions}.
 */
export interface ServerFiles {
  /**
   * Contents of the three mutual TLS files that the section `upload.server` names. Default: none,
   * which is allowed only if the section does not name all three files.
   */
  readonly mutual?: MutualTls | undefined;
}

/**
 * Converts a configuration to server options, for QUIC, TCP and gRPC at their configured ports. The
 * caller can delete protocols from the returned options to serve fewer of them.
 *
 * With `mutual`, gRPC and QUIC use its certificate and require client certificates, like stock
 * Dragonfly. Without `mutual`, gRPC is plaintext, and QUIC uses a self-signed certificate.
 *
 * @throws `InvalidArgument` if the section `upload.server` names all three mutual TLS files, but
 * `mutual` is missing. Otherwise the server would be open to all clients by mistake.
 */
export function serverOptions(
  config: Config,
  { mutual }: ServerFiles = {},
): Omit<StorageServerOptions, "store"> {
  const { host, upload, storage, network, vortexPeer } = config;
  const local = storage.server.ip ?? (network.enableIPv6 ? "::" : undefined);
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
    ...(local !== undefined && { host: local }),
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
    idVersion: vortexPeer.idVersion,
    earlyData: vortexPeer.quic.earlyData,
  };
}

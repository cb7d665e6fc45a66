import type { Config } from "../config/config.ts";
import { type MutualTls, mutualTlsFiles } from "../config/mutual-tls.ts";
import { quicTuning } from "../config/tuning.ts";
import { VortexError } from "../errors.ts";
import type { TlsServerOptions } from "../transport/tls.ts";
import type { StorageServerOptions } from "./storage-server.ts";

/** What a configuration's files hold, for a server. */
export interface ServerFiles {
  /** Of `upload.server`. */
  readonly mutual?: MutualTls | undefined;
}

/**
 * How a configuration says to serve: over QUIC, TCP and gRPC, at their ports; what is not to be served can be left out of the
 * result. With the files of `upload.server`, gRPC is served over TLS to clients with a certificate, as in stock Dragonfly, and so
 * is QUIC.
 *
 * @throws `InvalidArgument` when the configuration names these files and what they hold is not given: that is no reason to serve
 * everybody
 */
export function serverOptions(
  config: Config,
  { mutual }: ServerFiles = {},
): Omit<StorageServerOptions, "store"> {
  const { host, upload, storage, vortexPeer } = config;
  if (mutual === undefined && mutualTlsFiles(upload.server) !== undefined) {
    throw new VortexError(
      "InvalidArgument",
      "upload.server names a certificate: expected what its files hold, too",
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

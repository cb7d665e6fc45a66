import { grpcBinding } from "../adapters/grpc/client.ts";
import { grpcServer } from "../adapters/grpc/server.ts";
import type { QuicBinding } from "../adapters/shared/fallback.ts";
import { nativeHashers } from "../adapters/shared/native-hashers.ts";
import { requireIdentity, selfSigned, serverIdentity } from "../adapters/shared/tls.ts";
import { warnOnce } from "../adapters/shared/warn-once.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { downloaderSettings } from "../src/client/call/settings.ts";
import type { CallOptions } from "../src/client/downloader.ts";
import {
  type Bindings,
  downloaderFactory,
  type TaskDownloaderFactory,
} from "../src/client/factory.ts";
import { GrpcDirectory } from "../src/client/grpc/directory.ts";
import { GrpcDownloader, type TaskStat } from "../src/client/grpc/downloader.ts";
import { portableRuntime, type Runtime } from "../src/runtime.ts";
import {
  type ServerBindings,
  StorageServer,
  type StorageServerOptions,
} from "../src/server/storage-server.ts";
import { identifiesPeer, type TlsClientOptions } from "../src/transport/tls.ts";

const STOCK_PEER_WARNING =
  "vortex-peer: QUIC to peers that no fingerprint or CA identifies: a stock dfdaemon of version 1.1.0 to 1.4.8 exits when a QUIC " +
  "handshake with it fails; use TCP for stock peers, or identify the peers (tls.fingerprints, tls.ca).";

/** What a runtime's face offers besides the core. */
export interface Face {
  /** Makes a downloader for the protocol that the options name. Throws `InvalidArgument`. */
  readonly createDownloader: TaskDownloaderFactory;
  /**
   * Serves a store over any of QUIC, TCP and gRPC.
   * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable`, `Unavailable`, or `StorageFailed` for a kept certificate.
   */
  startServer(options: StorageServerOptions): Promise<StorageServer>;
  /** Asks a peer over gRPC how a task is cut into pieces. Rejects as {@link GrpcDownloader.statTask} does. */
  statTask(addr: string, taskId: string, options?: StatTaskOptions): Promise<TaskStat>;
}

/** How a peer is asked about a task. */
export interface StatTaskOptions extends CallOptions {
  /** gRPC over TLS, with these options. Default: in the clear, as stock peers serve it. */
  readonly tls?: TlsClientOptions;
}

/** The face of a runtime that has Node's modules: its own QUIC, TCP on node:net, gRPC on node:http2. */
export function faceOf(quic: QuicBinding): Face {
  const runtime: Runtime = { ...portableRuntime, hashers: nativeHashers };
  const bindings: Bindings & ServerBindings = {
    runtime,
    quic({ tls, tuning }) {
      if (!identifiesPeer(tls)) warnOnce(STOCK_PEER_WARNING);
      return quic({ ...tuning, tls });
    },
    quicListener: (serverTls, tuning) => quic({ ...tuning, serverTls }),
    tcp: async () => tcpTransport,
    identities: { ofServer: serverIdentity, make: selfSigned, check: requireIdentity },
    grpc: (settings, tls) => new GrpcDownloader(async () => grpcBinding(tls && { tls }), settings),
    directory(settings, tls) {
      const binding = grpcBinding(tls && { tls });
      const downloader = new GrpcDownloader(async () => binding, settings);
      return Object.assign(new GrpcDirectory(downloader), { close: () => downloader.close() });
    },
    grpcServer: (local, store, settings, tls, serving) =>
      grpcServer(local, store, settings, { ...(tls && { tls }), serving }),
  };
  return {
    createDownloader: downloaderFactory(bindings),
    startServer: (options) => StorageServer.start(options, bindings),
    async statTask(addr, taskId, { tls, ...options } = {}) {
      const binding = grpcBinding(tls && { tls });
      await using downloader = new GrpcDownloader(
        async () => binding,
        downloaderSettings({}, runtime),
      );
      return await downloader.statTask(addr, taskId, options);
    },
  };
}

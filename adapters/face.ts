import type { CallOptions } from "../src/client/downloader.ts";
import { type Bindings, type DownloaderFactory, downloaderFactory } from "../src/client/factory.ts";
import { GrpcDownloader, type TaskStat } from "../src/client/grpc.ts";
import { downloaderSettings } from "../src/client/settings.ts";
import { portableRuntime, type Runtime } from "../src/runtime.ts";
import { type ServerBindings, StorageServer, type StorageServerOptions } from "../src/server/storage-server.ts";
import type { TlsClientOptions, TlsServerOptions } from "../src/transport/tls.ts";
import type { Transport } from "../src/transport/transport.ts";
import { grpcBinding } from "./grpc/client.ts";
import { grpcServer } from "./grpc/server.ts";
import { nativeHashers } from "./native-hashers.ts";
import { tcpTransport } from "./tcp/transport.ts";

/** The QUIC of a runtime; may reject with `Unavailable`, naming what works instead. */
export type QuicBinding = (options: {
  readonly tls?: TlsClientOptions;
  readonly serverTls?: TlsServerOptions;
}) => Promise<Transport>;

/** What a runtime's face offers besides the core. */
export interface Face {
  /** Makes a downloader for the protocol that the options name. Throws `InvalidArgument`. */
  readonly createDownloader: DownloaderFactory;
  /**
   * Serves a store over any of QUIC, TCP and gRPC.
   * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable` or `Unavailable`.
   */
  startServer(options: StorageServerOptions): Promise<StorageServer>;
  /** Asks a peer over gRPC how a task is cut into pieces. Rejects as {@link GrpcDownloader.statTask} does. */
  statTask(addr: string, taskId: string, options?: CallOptions): Promise<TaskStat>;
}

/** The face of a runtime that has Node's modules: its own QUIC, TCP on node:net, gRPC on node:http2. */
export function faceOf(quic: QuicBinding): Face {
  const runtime: Runtime = { ...portableRuntime, hashers: nativeHashers };
  const bindings: Bindings & ServerBindings = {
    runtime,
    quic: ({ tls }) => quic({ tls }),
    quicListener: (serverTls) => quic({ serverTls }),
    tcp: async () => tcpTransport,
    grpc: (settings) => new GrpcDownloader(async () => grpcBinding(), settings),
    grpcServer: (local, store, settings) => grpcServer(local, store, settings),
  };
  return {
    createDownloader: downloaderFactory(bindings),
    startServer: (options) => StorageServer.start(options, bindings),
    async statTask(addr, taskId, options) {
      await using downloader = new GrpcDownloader(async () => grpcBinding(), downloaderSettings({}, runtime));
      return await downloader.statTask(addr, taskId, options);
    },
  };
}

import { fileSink } from "../adapters/files/sink.ts";
import { closeOnSignals } from "../adapters/shared/close-on-signals.ts";
import type { QuicBinding } from "../adapters/shared/fallback.ts";
import { loadTls } from "../adapters/shared/load-tls.ts";
import { nativeHashers } from "../adapters/shared/native-hashers.ts";
import { warnOnce } from "../adapters/shared/warn-once.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { type Checks, fields, requireOptions } from "../src/arguments.ts";
import { downloaderSettings } from "../src/client/call/settings.ts";
import { type CallOptions, callChecks, type DownloaderSettings } from "../src/client/downloader.ts";
import { type Bindings, type DownloaderFactory, downloaderFactory } from "../src/client/factory.ts";
import { GrpcDirectory } from "../src/client/grpc/directory.ts";
import { GrpcDownloader } from "../src/client/grpc/downloader.ts";
import type { TaskStat } from "../src/client/task-stat.ts";
import { loadPart } from "../src/load.ts";
import { portableRuntime, type Runtime } from "../src/runtime.ts";
import {
  type ServerBindings,
  type StorageServer,
  type StorageServerOptions,
  startStorageServer,
} from "../src/server/storage-server.ts";
import type { GrpcBinding } from "../src/transport/grpc.ts";
import { type TlsClientOptions, tlsClientChecks } from "../src/transport/tls.ts";

const STOCK_PEER_WARNING =
  "vortex-peer: QUIC without tls.fingerprints or tls.ca: dfdaemon 1.1.0 to 1.4.8 exits when a QUIC " +
  "handshake with it fails; use TCP for dfdaemon, or set tls.fingerprints or tls.ca for other peers.";

/**
 * Functions that a runtime's entry point adds to the core, bound to the transports of that runtime.
 */
export interface RuntimeApi {
  /**
   * Creates a downloader for the protocol in the options. Throws `InvalidArgument` for bad options.
   */
  readonly createDownloader: DownloaderFactory;
  /**
   * Starts a server that offers a piece store over QUIC, TCP and gRPC, or some of them.
   *
   * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable` or `Unavailable`, and with
   * `StorageFailed` when the identity store fails to load or save the certificate.
   */
  startServer(options: StorageServerOptions): Promise<StorageServer>;
  /**
   * Queries a peer over gRPC for a task's content length and piece length.
   * Rejects like {@link GrpcDownloader.statTask}.
   */
  statTask(addr: string, taskId: string, options?: StatTaskOptions): Promise<TaskStat>;
}

/** Options of {@link RuntimeApi.statTask}. */
export interface StatTaskOptions extends CallOptions {
  /** Uses gRPC over TLS with these options. Default: plaintext, which dfdaemon serves. */
  readonly tls?: TlsClientOptions | undefined;
}

const statTaskChecks: Checks<StatTaskOptions> = {
  ...callChecks,
  tls: fields(tlsClientChecks),
};

/**
 * Builds the {@link RuntimeApi} of a runtime that provides Node's modules: the given QUIC binding,
 * TCP on node:net and gRPC on node:http2.
 *
 * @param warn receives warnings of one line, which begin with `vortex-peer: `. Default: prints each
 * once per process
 */
export function runtimeApi(quic: QuicBinding, warn: (line: string) => void = warnOnce): RuntimeApi {
  const runtime: Runtime = { ...portableRuntime, hashers: nativeHashers };
  const bindings: Bindings & ServerBindings = {
    runtime,
    quic({ tls, tuning, dialsUnknownPeers }) {
      if (dialsUnknownPeers) warn(STOCK_PEER_WARNING);
      return quic({ ...tuning, tls });
    },
    quicListener: (serverTls, tuning) => quic({ ...tuning, serverTls }),
    tcp: async () => tcpTransport,
    fileSink,
    identities: {
      serverIdentity: async (options) => (await loadTls()).serverIdentity(options),
      create: async () => (await loadTls()).selfSigned(),
      validate: async (identity) => (await loadTls()).requireIdentity(identity),
    },
    grpc,
    directory(settings, tls) {
      const downloader = grpc(settings, tls);
      return Object.assign(new GrpcDirectory(downloader), { close: () => downloader.close() });
    },
    async grpcServer(local, store, settings, tls, serving) {
      const { grpcServer } = await loadPart(
        "the gRPC server",
        () => import("../adapters/grpc/server.ts"),
      );
      return grpcServer(local, store, settings, { ...(tls && { tls }), serving });
    },
    closeOnSignals,
  };
  return {
    createDownloader: downloaderFactory(bindings),
    startServer: (options) => startStorageServer(options, bindings),
    async statTask(addr, taskId, options = {}) {
      requireOptions("statTask", options, statTaskChecks);
      const { tls, ...callOptions } = options;
      await using downloader = grpc(downloaderSettings({}, runtime), tls);
      return await downloader.statTask(addr, taskId, callOptions);
    },
  };
}

/** Creates a downloader over gRPC on node:http2, which is loaded at the first call. */
function grpc(settings: DownloaderSettings, tls: TlsClientOptions | undefined): GrpcDownloader {
  const load = async (): Promise<GrpcBinding> => {
    const { grpcBinding } = await import("../adapters/grpc/client.ts");
    return grpcBinding(tls && { tls });
  };
  return new GrpcDownloader(() => loadPart("gRPC", load), settings);
}

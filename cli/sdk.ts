import type { RuntimeApi } from "../entry/runtime-api.ts";
import type { DownloaderOptions } from "../src/client/factory.ts";
import type { Downloader } from "../src/client/task-downloader.ts";
import type { StorageServer } from "../src/server/storage-server.ts";
import type { TaskDirectory } from "../src/task/discovery.ts";
import type { TlsClientOptions } from "../src/transport/tls.ts";

/** Functions of the SDK that the command uses, as an interface that tests can replace. */
export interface Sdk {
  /** Creates a downloader, see {@link RuntimeApi.createDownloader}. */
  createDownloader(options: DownloaderOptions): CliDownloader;
  /** Starts a server, see {@link RuntimeApi.startServer}. */
  startServer(...args: Parameters<RuntimeApi["startServer"]>): Promise<CliServer>;
  /** Creates a client that queries peers over gRPC for a task's layout and their pieces of it. */
  createDirectory(options: DirectoryFlags): CliDirectory;
}

/** Receives one line of a warning. It begins with `vortex-peer: ` and names library options. */
export type Warn = (line: string) => void;

/** Methods of a {@link Downloader} that the command uses. */
export type CliDownloader = Pick<Downloader, "downloadPiece" | "downloadTask" | "streamTask"> &
  AsyncDisposable;

/** Client that queries peers over the Dragonfly API for a task's layout and their pieces of it. */
export type CliDirectory = TaskDirectory & AsyncDisposable;

/** Options of {@link Sdk.createDirectory}. */
export interface DirectoryFlags {
  /** Uses gRPC over TLS with these options. Default: plaintext. */
  readonly tls?: TlsClientOptions;
  /** Timeout for connecting, in ms. */
  readonly connectTimeout?: number;
  /** Timeout without a response, in ms. */
  readonly stallTimeout?: number;
}

/** Members of a listening {@link StorageServer} that the command uses. */
export type CliServer = Pick<
  StorageServer,
  "addresses" | "fingerprint" | "rotateCertificate" | "close"
>;

import type { Face } from "../entry/face.ts";
import type { CreateDownloaderOptions } from "../src/client/factory.ts";
import type { TaskDownloader } from "../src/client/task-downloader.ts";
import type { StorageServer } from "../src/server/storage-server.ts";
import type { TaskDirectory } from "../src/task/discovery.ts";
import type { TlsClientOptions } from "../src/transport/tls.ts";

/** What the command needs of a runtime: its face, but for the classes, so that tests can give others. */
export interface CliFace {
  createDownloader(options: CreateDownloaderOptions): CliDownloader;
  startServer(...args: Parameters<Face["startServer"]>): Promise<CliServer>;
  createDirectory(options: DirectoryFlags): CliDirectory;
}

/** Fetches pieces and tasks. */
export type CliDownloader = Pick<TaskDownloader, "downloadPiece" | "downloadTask" | "streamTask"> &
  AsyncDisposable;

/** Asks peers over the Dragonfly API what they have of a task. */
export type CliDirectory = TaskDirectory & AsyncDisposable;

/** How peers are asked. */
export interface DirectoryFlags {
  /** In the clear without it. */
  readonly tls?: TlsClientOptions;
  /** Milliseconds. */
  readonly connectTimeout?: number;
  readonly stallTimeout?: number;
}

/** A server that listens. */
export type CliServer = Pick<
  StorageServer,
  "addresses" | "fingerprint" | "rotateCertificate" | "close"
>;

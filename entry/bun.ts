/**
 * Entry point for Bun: the core plus QUIC on quiche, TCP on node:net and gRPC on node:http2.
 * QUIC on Bun's own node:quic is opt-in, see {@link nodeQuicTransport}.
 *
 * @module
 */

import type { DownloaderOptions } from "../src/client/factory.ts";
import type { Downloader } from "../src/client/task-downloader.ts";
import type { TaskStat } from "../src/client/task-stat.ts";
import type { StorageServer, StorageServerOptions } from "../src/server/storage-server.ts";
import { bunApi } from "./bun-api.ts";
import type { StatTaskOptions } from "./runtime-api.ts";

export * from "./everywhere.ts";

const api = bunApi();
/**
 * Creates a downloader for the protocol in the options. Throws `InvalidArgument` for bad options.
 */
export const createDownloader: (options?: DownloaderOptions) => Downloader = api.createDownloader;
/**
 * Starts a server that offers a piece store over QUIC, TCP and gRPC, or some of them.
 *
 * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable` or `Unavailable`, and with
 * `StorageFailed` when the identity store fails to load or save the certificate.
 */
export const startServer: (options: StorageServerOptions) => Promise<StorageServer> =
  api.startServer;
/**
 * Queries a peer over gRPC for a task's content length and piece length.
 * Rejects like {@link GrpcDownloader.statTask}.
 */
export const statTask: (
  addr: string,
  taskId: string,
  options?: StatTaskOptions,
) => Promise<TaskStat> = api.statTask;

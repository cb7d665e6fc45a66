/**
 * Entry point for Node: the core plus QUIC on quiche, TCP on node:net and gRPC on node:http2.
 *
 * @module
 */

import type { DownloaderOptions } from "../src/client/factory.ts";
import type { Downloader } from "../src/client/task-downloader.ts";
import type { TaskStat } from "../src/client/task-stat.ts";
import type { StorageServer, StorageServerOptions } from "../src/server/storage-server.ts";
import { nodeApi } from "./node-api.ts";
import type { StatTaskOptions } from "./runtime-api.ts";

export * from "./everywhere.ts";

const api = nodeApi();
/**
 * Creates a downloader for the protocol in the options. Throws `InvalidArgument` for bad options.
 *
 * @example
 * ```ts
 * import { createDownloader } from "vortex-peer";
 *
 * const downloader = createDownloader({ protocol: "tcp", rateLimit: 100_000_000 });
 * // … downloadPiece, downloadTask, streamTask …
 * await downloader.close();
 * ```
 */
export const createDownloader: (options?: DownloaderOptions) => Downloader = api.createDownloader;
/**
 * Starts a server that offers a piece store over QUIC, TCP and gRPC, or some of them.
 *
 * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable` or `Unavailable`, and with
 * `StorageFailed` when the identity store fails to load or save the certificate.
 *
 * @example
 * ```ts
 * import { MemoryPieceStore, startServer } from "vortex-peer";
 *
 * const store = new MemoryPieceStore();
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * store.putTask(taskId, new TextEncoder().encode("content"));
 * const server = await startServer({ store, tcp: { port: 4005 }, grpc: { port: 4000 } });
 * console.log(server.addresses);
 * await server.close();
 * ```
 */
export const startServer: (options: StorageServerOptions) => Promise<StorageServer> =
  api.startServer;
/**
 * Queries a peer over gRPC for a task's content length and piece length.
 * Rejects like {@link GrpcDownloader.statTask}.
 *
 * @example
 * ```ts
 * import { statTask } from "vortex-peer";
 *
 * const { contentLength, pieceLength } = await statTask(
 *   "10.0.0.7:4000",
 *   "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd",
 * );
 * console.log(Math.ceil(contentLength / pieceLength), "pieces");
 * ```
 */
export const statTask: (
  addr: string,
  taskId: string,
  options?: StatTaskOptions,
) => Promise<TaskStat> = api.statTask;

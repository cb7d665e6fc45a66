/**
 * The face of Node: the core, with QUIC on quiche, TCP on node:net and gRPC on node:http2.
 *
 * @module
 */

import { quicheTransport } from "../adapters/quiche/transport.ts";
import { type Face, faceOf } from "./face.ts";

export * from "./everywhere.ts";
export * from "./quiche.ts";

const face: Face = faceOf(quicheTransport);
/**
 * Makes a downloader for the protocol that the options name. Throws `InvalidArgument`.
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
export const createDownloader: Face["createDownloader"] = face.createDownloader;
/**
 * Serves a store over any of QUIC, TCP and gRPC.
 * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable`, `Unavailable`, or `StorageFailed` for a kept certificate.
 *
 * @example
 * ```ts
 * import { MemoryPieceStore, startServer } from "vortex-peer";
 *
 * const store = new MemoryPieceStore();
 * store.putTask("7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd", new TextEncoder().encode("content"));
 * const server = await startServer({ store, tcp: { port: 4005 }, grpc: { port: 4000 } });
 * console.log(server.addresses);
 * await server.close();
 * ```
 */
export const startServer: Face["startServer"] = face.startServer;
/**
 * Asks a peer over gRPC how a task is cut into pieces. Rejects as {@link GrpcDownloader.statTask} does.
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
export const statTask: Face["statTask"] = face.statTask;

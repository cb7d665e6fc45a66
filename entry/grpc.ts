/**
 * `vortex-peer/grpc`: client and server of the Dragonfly gRPC API on node:http2, for Node, Bun and
 * Deno.
 *
 * @module
 */

export { type GrpcBindingOptions, grpcBinding } from "../adapters/grpc/client.ts";
export { GrpcServer, type GrpcServerOptions, grpcServer } from "../adapters/grpc/server.ts";
export { GrpcClient } from "../src/client/grpc/client.ts";
export { GrpcDirectory } from "../src/client/grpc/directory.ts";
export {
  type AnnouncedPiece,
  type DownloadTaskOptions,
  type FetchedPiece,
  GrpcDownloader,
  type SyncRequest,
  type TaskIdentity,
  type TaskPieces,
  type TaskStat,
} from "../src/client/grpc/downloader.ts";
export type { AdvertisedHost } from "../src/server/grpc/advertised.ts";
export type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../src/transport/grpc.ts";

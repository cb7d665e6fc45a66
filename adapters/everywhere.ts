/** What the faces of Node, Bun and Deno have in common, besides the functions that each binds to its own QUIC. */
export {
  type AnnouncedPiece,
  type DownloadTaskOptions,
  type FetchedPiece,
  GrpcClient,
  GrpcDownloader,
  type SyncRequest,
  type TaskIdentity,
  type TaskPieces,
  type TaskStat,
} from "../src/client/grpc.ts";
export { GrpcDirectory } from "../src/client/grpc-directory.ts";
export * from "../src/index.ts";
export type { GrpcServing } from "../src/server/grpc.ts";
export type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../src/transport/grpc.ts";
export type { Face, StatTaskOptions } from "./face.ts";
export { fileIdentityStore } from "./files/identity-store.ts";
export { fileSink } from "./files/sink.ts";
export { type AddFileOptions, FilePieceStore } from "./files/store.ts";
export { type GrpcBindingOptions, grpcBinding } from "./grpc/client.ts";
export { GrpcServer, type GrpcServerOptions, grpcServer } from "./grpc/server.ts";
export { nativeHashers } from "./native-hashers.ts";
export { type OpenTelemetryApi, openTelemetry } from "./opentelemetry.ts";
export { tcpTransport } from "./tcp/transport.ts";

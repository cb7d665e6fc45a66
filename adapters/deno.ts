/**
 * The face of Deno: the core, with QUIC on Deno's own, TCP on node:net and gRPC on node:http2. QUIC needs the flag
 * `--unstable-net`.
 *
 * @module
 */
import { denoQuicTransport } from "./deno-quic/transport.ts";
import { type Face, faceOf } from "./face.ts";
import { withFallback } from "./fallback.ts";
import { tcpTransport } from "./tcp/transport.ts";

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
export type { DenoQuicOptions } from "./deno-quic/options.ts";
export { type DenoQuicTransportOptions, denoQuicTransport } from "./deno-quic/transport.ts";
export type { Face, StatTaskOptions } from "./face.ts";
export { fileIdentityStore } from "./files/identity-store.ts";
export { fileSink } from "./files/sink.ts";
export { type AddFileOptions, FilePieceStore } from "./files/store.ts";
export { type GrpcBindingOptions, grpcBinding } from "./grpc/client.ts";
export { GrpcServer, type GrpcServerOptions, grpcServer } from "./grpc/server.ts";
export { nativeHashers } from "./native-hashers.ts";
export { type OpenTelemetryApi, openTelemetry } from "./opentelemetry.ts";
export { tcpTransport } from "./tcp/transport.ts";

const quic = withFallback([["Deno's QUIC", denoQuicTransport]], tcpTransport);

const face: Face = faceOf(quic);
export const createDownloader: Face["createDownloader"] = face.createDownloader;
export const startServer: Face["startServer"] = face.startServer;
export const statTask: Face["statTask"] = face.statTask;

/**
 * The face of Bun: the core, with QUIC on Bun's own node:quic, TCP on node:net and gRPC on node:http2.
 *
 * @module
 */
import { type Face, faceOf } from "./face.ts";
import { withFallback } from "./fallback.ts";
import { nodeQuicTransport } from "./node-quic/transport.ts";
import { quicheTransport } from "./quiche/transport.ts";
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
export type { Face, StatTaskOptions } from "./face.ts";
export { fileIdentityStore } from "./files/identity-store.ts";
export { fileSink } from "./files/sink.ts";
export { type AddFileOptions, FilePieceStore } from "./files/store.ts";
export { type GrpcBindingOptions, grpcBinding } from "./grpc/client.ts";
export { GrpcServer, type GrpcServerOptions, grpcServer } from "./grpc/server.ts";
export { nativeHashers } from "./native-hashers.ts";
export type { NodeQuicOptions } from "./node-quic/options.ts";
export { type NodeQuicTransportOptions, nodeQuicTransport } from "./node-quic/transport.ts";
export { type OpenTelemetryApi, openTelemetry } from "./opentelemetry.ts";
export type { QuicheOptions } from "./quiche/options.ts";
export { type QuicheTransportOptions, quicheTransport } from "./quiche/transport.ts";
export { tcpTransport } from "./tcp/transport.ts";

const quic = withFallback(
  [
    ["node:quic", nodeQuicTransport],
    ["quiche", quicheTransport],
  ],
  tcpTransport,
);

const face: Face = faceOf(quic);
export const createDownloader: Face["createDownloader"] = face.createDownloader;
export const startServer: Face["startServer"] = face.startServer;
export const statTask: Face["statTask"] = face.statTask;

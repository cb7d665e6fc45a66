/**
 * The face of Node: the core, with QUIC on quiche, TCP on node:net and gRPC on node:http2.
 *
 * @module
 */
import { type Face, faceOf } from "./face.ts";
import { quicheTransport } from "./quiche/transport.ts";

export { GrpcClient, GrpcDownloader, type TaskStat } from "../src/client/grpc.ts";
export * from "../src/index.ts";
export type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../src/transport/grpc.ts";
export type { Face } from "./face.ts";
export { type AddFileOptions, FilePieceStore } from "./files/store.ts";
export { type GrpcBindingOptions, grpcBinding } from "./grpc/client.ts";
export { GrpcServer, type GrpcServerOptions, grpcServer } from "./grpc/server.ts";
export { nativeHashers } from "./native-hashers.ts";
export type { QuicheOptions } from "./quiche/options.ts";
export { type QuicheTransportOptions, quicheTransport } from "./quiche/transport.ts";
export { tcpTransport } from "./tcp/transport.ts";

const face: Face = faceOf(quicheTransport);
export const createDownloader: Face["createDownloader"] = face.createDownloader;
export const startServer: Face["startServer"] = face.startServer;
export const statTask: Face["statTask"] = face.statTask;

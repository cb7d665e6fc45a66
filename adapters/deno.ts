/**
 * The face of Deno: the core, with TCP on node:net and gRPC on node:http2; QUIC is not there yet.
 *
 * @module
 */
import { VortexError } from "../src/errors.ts";
import { type Face, faceOf } from "./face.ts";

export { GrpcClient, GrpcDownloader, type TaskStat } from "../src/client/grpc.ts";
export * from "../src/index.ts";
export type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../src/transport/grpc.ts";
export type { Face } from "./face.ts";
export { type AddFileOptions, FilePieceStore } from "./files/store.ts";
export { type GrpcBindingOptions, grpcBinding } from "./grpc/client.ts";
export { GrpcServer, type GrpcServerOptions, grpcServer } from "./grpc/server.ts";
export { nativeHashers } from "./native-hashers.ts";
export { tcpTransport } from "./tcp/transport.ts";

const noQuic = (): Promise<never> =>
  Promise.reject(new VortexError("Unavailable", 'QUIC is not available on Deno yet; use protocol "tcp" or "grpc"'));

const face: Face = faceOf(noQuic);
export const createDownloader: Face["createDownloader"] = face.createDownloader;
export const startServer: Face["startServer"] = face.startServer;
export const statTask: Face["statTask"] = face.statTask;

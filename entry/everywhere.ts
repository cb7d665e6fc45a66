/**
 * Exports shared by the Node, Bun and Deno entry points, apart from the functions that each of them
 * binds to its own QUIC transport.
 */

export { type OpenTelemetryApi, openTelemetry } from "../adapters/opentelemetry.ts";
export { nativeHashers } from "../adapters/shared/native-hashers.ts";
export * from "./files.ts";
export * from "./grpc.ts";
export * from "./root.ts";
export type { RuntimeApi, StatTaskOptions } from "./runtime-api.ts";
export * from "./tcp.ts";

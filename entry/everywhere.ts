/** What the faces of Node, Bun and Deno have in common, besides the functions that each binds to its own QUIC. */

export { type OpenTelemetryApi, openTelemetry } from "../adapters/opentelemetry.ts";
export { nativeHashers } from "../adapters/shared/native-hashers.ts";
export type { Face, StatTaskOptions } from "./face.ts";
export * from "./files.ts";
export * from "./grpc.ts";
export * from "./root.ts";
export * from "./tcp.ts";

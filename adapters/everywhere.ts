/** What the faces of Node, Bun and Deno have in common, besides the functions that each binds to its own QUIC. */
export * from "../src/index.ts";
export type { Face, StatTaskOptions } from "./face.ts";
export * from "./files.ts";
export * from "./grpc.ts";
export { nativeHashers } from "./native-hashers.ts";
export { type OpenTelemetryApi, openTelemetry } from "./opentelemetry.ts";
export * from "./tcp.ts";

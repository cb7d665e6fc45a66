/**
 * Exports shared by the Node, Bun and Deno entry points, apart from the functions that each of them
 * binds to its own QUIC transport.
 */
export { type AddFileOptions, FilePieceStore } from "../adapters/files/store.ts";
export type { TaskStat } from "../src/client/task-stat.ts";
export type { ServerOptions } from "../src/server/admission/upload.ts";
export type { StorageServer, StorageServerOptions } from "../src/server/storage-server.ts";
export type { Address } from "../src/transport/address.ts";
export type { IdentityStore, TlsIdentity, TlsServerOptions } from "../src/transport/tls.ts";
export type { ListenerCounters } from "../src/transport/transport.ts";
export * from "./root.ts";
export type { StatTaskOptions } from "./runtime-api.ts";

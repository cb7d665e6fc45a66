/**
 * `vortex-peer/files`: file-backed sinks, piece stores, identity stores and configuration, for
 * Node, Bun and Deno.
 *
 * @module
 */

export { fileIdentityStore } from "../adapters/files/identity-store.ts";
export { type LoadedConfig, loadConfig } from "../adapters/files/load-config.ts";
export { fileSink } from "../adapters/files/sink.ts";
export { type AddFileOptions, FilePieceStore } from "../adapters/files/store.ts";

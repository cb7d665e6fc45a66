/**
 * `vortex-peer/files`: tasks to and from files, certificates and configuration that are kept in files, for Node, Bun and Deno.
 *
 * @module
 */
export { type LoadedConfig, loadConfig } from "../adapters/files/config-file.ts";
export { fileIdentityStore } from "../adapters/files/identity-store.ts";
export { fileSink } from "../adapters/files/sink.ts";
export { type AddFileOptions, FilePieceStore } from "../adapters/files/store.ts";

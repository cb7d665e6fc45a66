/**
 * `vortex-peer/files`: tasks to and from files, certificates and configuration that are kept in files, for Node, Bun and Deno.
 *
 * @module
 */
export { type LoadedConfig, loadConfig } from "./config-file.ts";
export { fileIdentityStore } from "./files/identity-store.ts";
export { fileSink } from "./files/sink.ts";
export { type AddFileOptions, FilePieceStore } from "./files/store.ts";

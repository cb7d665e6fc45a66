/**
 * `vortex-peer/config`: the form of `dfdaemon.yaml`, and `StorageClient`, which is configured by it.
 *
 * @module
 */
export { type DownloaderFiles, downloaderOptions } from "../client/configured.ts";
export * from "../client/storage-client.ts";
export * from "../config/config.ts";
export type { ConfigKey, ValueOf as ConfigValue } from "../config/keys.ts";
export type { MutualTls } from "../config/mutual-tls.ts";
export { type ServerFiles, serverOptions } from "../server/configured.ts";

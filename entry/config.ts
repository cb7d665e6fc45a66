/**
 * `vortex-peer/config`: configuration in the format of `dfdaemon.yaml`, and `StorageClient`, a
 * client that takes its settings from it.
 *
 * @module
 */
export { type DownloaderFiles, downloaderOptions } from "../src/client/configured.ts";
export * from "../src/client/storage-client.ts";
export * from "../src/config/config.ts";
export type { ConfigKey, ValueOf as ConfigValue } from "../src/config/keys.ts";
export type { MutualTls } from "../src/config/mutual-tls.ts";
export { type ServerFiles, serverOptions } from "../src/server/configured.ts";

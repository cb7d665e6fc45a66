/**
 * `vortex-peer/config`: the form of `dfdaemon.yaml`, and `StorageClient`, which is configured by it.
 *
 * @module
 */
export { type DownloaderFiles, downloaderOptions } from "../src/client/configured.ts";
export * from "../src/client/storage-client.ts";
export * from "../src/config/config.ts";
export type { ConfigKey, ValueOf as ConfigValue } from "../src/config/keys.ts";
export type { MutualTls } from "../src/config/mutual-tls.ts";
export { type ServerFiles, serverOptions } from "../src/server/configured.ts";

/**
 * Loads a configuration file. Loads the parser at the first call: most programs have no
 * configuration file.
 */
import process from "node:process";
import { loadPart } from "../../src/load.ts";
import { nativeError } from "../shared/native-error.ts";
import type { LoadedConfig } from "./config-file.ts";

export type { LoadedConfig } from "./config-file.ts";

/** Name of the environment variable with the path of the configuration file. */
export const configVariable = "VORTEX_PEER_CONFIG";

/**
 * Loads a configuration file: YAML in the format of Dragonfly's `dfdaemon.yaml`, with merge keys
 * (`<<`), up to 128 KiB. See `parseConfig` for the supported keys.
 *
 * Relative paths in the file are resolved from the working directory, like dfdaemon. If a value
 * seems meant for this library but has no effect, prints a warning about it to standard error. The
 * same warning is printed only once per process.
 *
 * @example
 * ```ts
 * import { createDownloader, FilePieceStore, startServer } from "vortex-peer";
 * import { loadConfig } from "vortex-peer/files";
 *
 * const config = await loadConfig("/etc/dragonfly/dfdaemon.yaml");
 * const downloader = createDownloader(await config.downloader());
 * const server = await startServer({ ...(await config.server()), store: new FilePieceStore() });
 * ```
 *
 * @param path path of the file. Default: the value of the environment variable
 * `VORTEX_PEER_CONFIG`. If the variable is not set either, all settings have their defaults.
 *
 * Rejects with `StorageFailed` if the file cannot be read, and with `Unavailable` if the runtime
 * cannot read the environment variable. Rejects with `InvalidArgument` if the file is not YAML or
 * has invalid values. The message then has one line for each value:
 * `file:line: key: value: expected …`.
 */
export async function loadConfig(path?: string): Promise<LoadedConfig> {
  const file = path ?? pathFromEnvironment();
  // An empty environment variable counts as unset, as in shells.
  const { loadedConfig, readConfigLayer } = await loadPart(
    "the configuration parser",
    () => import("./config-file.ts"),
  );
  return loadedConfig(...(file ? [await readConfigLayer(file)] : []));
}

function pathFromEnvironment(): string | undefined {
  try {
    return process.env[configVariable];
  } catch (error) {
    throw nativeError(
      error,
      "Unavailable",
      `cannot read the environment variable ${configVariable}`,
    );
  }
}

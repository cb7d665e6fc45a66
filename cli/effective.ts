/** Merges command-line options with the configuration file and the defaults, for all commands. */
import type { Command } from "commander";
import * as v from "valibot";
import { type LoadedConfig, loadedConfig, readConfigLayer } from "../adapters/files/config-file.ts";
import { configVariable } from "../adapters/files/load-config.ts";
import type { DownloaderOptions } from "../src/client/factory.ts";
import { configLayer } from "../src/config/config.ts";
import type { ConfigKey, ValueOf } from "../src/config/keys.ts";
import { VortexError } from "../src/errors.ts";
import type { UnverifiedPieces } from "../src/piece.ts";
import type { ProtocolChoice } from "../src/transport/protocol.ts";
import { type CliEnvironment, ConfigFailure } from "./terminal.ts";
import { text, type Value } from "./values.ts";

/** Option for the configuration file. */
export interface ConfigFlags {
  readonly config?: string | undefined;
}

/** Command-line options of a downloader. Durations are in ms, rates in bytes/s. */
export interface DownloaderFlags extends ConfigFlags {
  /** Omits the warnings about values without effect. */
  readonly quiet?: boolean | undefined;
  readonly protocol?: ProtocolChoice | undefined;
  readonly connectTimeout?: number | undefined;
  readonly pieceTimeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
  readonly concurrency?: number | undefined;
  readonly limit?: number | undefined;
  readonly patience?: number | undefined;
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
}

/** Command-line options of a server. The upload rate is in bytes/s. */
export interface ServerFlags extends ConfigFlags {
  readonly host?: string | undefined;
  readonly quicPort?: number | undefined;
  readonly tcpPort?: number | undefined;
  readonly grpcPort?: number | undefined;
  readonly uploadRate?: number | undefined;
  readonly maxConnections?: number | undefined;
}

/** Adds the `--config` option to a command. */
export function addConfigOption(command: Command): Command {
  return command.option(
    "--config <file>",
    `configuration file in the format of dfdaemon.yaml; options override it (default: $${configVariable})`,
  );
}

/** Validation schema of {@link ConfigFlags}. */
export const configEntries: { readonly config: Value<string | undefined> } = {
  config: v.optional(text),
};

/** Returns the options for `createDownloader`. Rejects like {@link effectiveConfig}. */
export async function effectiveDownloaderOptions(
  flags: DownloaderFlags,
  environment: CliEnvironment,
): Promise<DownloaderOptions> {
  return (await effectiveConfig(flags, environment)).downloader();
}

/**
 * Resolves the effective configuration. Precedence: command-line options, configuration file,
 * defaults.
 *
 * Rejects with `StorageFailed` when the file cannot be read, and with {@link ConfigFailure} for
 * invalid values in it.
 */
export async function effectiveConfig(
  flags: Flags,
  { env }: CliEnvironment,
): Promise<LoadedConfig> {
  const flagLayer = configLayer(
    Object.fromEntries(Object.entries(flagOf).map(([key, flag]) => [key, flags[flag]])),
    (key) => `--${flagOf[key]?.replace(/[A-Z]/g, (upper) => `-${upper.toLowerCase()}`)}`,
  );
  // An empty environment variable counts as unset, as in shells.
  const path = flags.config ?? (env[configVariable] || undefined);
  if (path === undefined) return loadedConfig(flagLayer);
  try {
    return loadedConfig(flagLayer, await readConfigLayer(path, flags.quiet ? () => {} : undefined));
  } catch (error) {
    if (!(error instanceof VortexError) || error.code !== "InvalidArgument") throw error;
    throw new ConfigFailure(error);
  }
}

/** Maps a configuration key to the command-line option that overrides it. */
const flagOf: { readonly [Key in ConfigKey]?: FlagsOfType<ValueOf<Key>> } = {
  "download.protocol": "protocol",
  "download.bandwidthLimit": "limit",
  "download.pieceTimeout": "pieceTimeout",
  "download.concurrentPieceCount": "concurrency",
  "upload.bandwidthLimit": "uploadRate",
  "upload.server.ip": "host",
  "upload.server.port": "grpcPort",
  "storage.server.ip": "host",
  "storage.server.tcpPort": "tcpPort",
  "storage.server.quicPort": "quicPort",
  "vortexPeer.connectTimeout": "connectTimeout",
  "vortexPeer.stallTimeout": "stallTimeout",
  "vortexPeer.patience": "patience",
  "vortexPeer.unverifiedPieces": "unverifiedPieces",
  "vortexPeer.maxConnections": "maxConnections",
};

type Flags = DownloaderFlags & ServerFlags;

/** Names of the options whose values have type `T`. */
type FlagsOfType<T> = {
  [Flag in keyof Flags]-?: NonNullable<Flags[Flag]> extends T ? Flag : never;
}[keyof Flags];

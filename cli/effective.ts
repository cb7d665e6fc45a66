/** The one place where what the command line does not say gets its value: from a file, or by default. */
import type { Command } from "commander";
import * as v from "valibot";
import {
  configVariable,
  type LoadedConfig,
  loadedConfig,
  readConfigLayer,
} from "../adapters/files/config-file.ts";
import type { CreateDownloaderOptions } from "../src/client/factory.ts";
import { configLayer } from "../src/config/config.ts";
import type { ConfigKey, ValueOf } from "../src/config/keys.ts";
import { VortexError } from "../src/errors.ts";
import type { ProtocolChoice } from "../src/transport/protocol.ts";
import { type CliEnvironment, ConfigFailure } from "./terminal.ts";
import { text, type Value } from "./values.ts";

/** Which file to read. */
export interface ConfigFlags {
  readonly config?: string | undefined;
}

/** What the command line says about fetching. */
export interface DownloaderFlags extends ConfigFlags {
  readonly protocol?: ProtocolChoice | undefined;
  readonly connectTimeout?: number | undefined;
  readonly pieceTimeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
  readonly concurrency?: number | undefined;
  readonly limit?: number | undefined;
  readonly patience?: number | undefined;
}

/** What the command line says about serving. */
export interface ServerFlags extends ConfigFlags {
  readonly host?: string | undefined;
  readonly quicPort?: number | undefined;
  readonly tcpPort?: number | undefined;
  readonly grpcPort?: number | undefined;
  readonly uploadRate?: number | undefined;
  readonly maxConnections?: number | undefined;
}

/** Adds {@link ConfigFlags} to a command. */
export function addConfigOption(command: Command): Command {
  return command.option(
    "--config <file>",
    `what holds where no option says otherwise, in the form of dfdaemon.yaml (default: $${configVariable})`,
  );
}

/** The schema of {@link ConfigFlags}. */
export const configEntries: { readonly config: Value<string | undefined> } = {
  config: v.optional(text),
};

/** How to fetch. Rejects as {@link effectiveConfig} does. */
export async function effectiveDownloader(
  flags: DownloaderFlags,
  environment: CliEnvironment,
): Promise<CreateDownloaderOptions> {
  return (await effectiveConfig(flags, environment)).downloader();
}

/**
 * What holds: options of the command line, then the file, then the defaults.
 *
 * Rejects with `StorageFailed` when the file cannot be read, and with a {@link ConfigFailure} for wrong values in it.
 */
export async function effectiveConfig(
  flags: Flags,
  { env }: CliEnvironment,
): Promise<LoadedConfig> {
  const said = configLayer(
    Object.fromEntries(Object.entries(flagOf).map(([key, flag]) => [key, flags[flag]])),
    (key) => `--${flagOf[key]?.replace(/[A-Z]/g, (upper) => `-${upper.toLowerCase()}`)}`,
  );
  // An empty variable is none, as shells have it.
  const path = flags.config ?? (env[configVariable] || undefined);
  if (path === undefined) return loadedConfig(said);
  try {
    return loadedConfig(said, await readConfigLayer(path));
  } catch (error) {
    if (!(error instanceof VortexError) || error.code !== "InvalidArgument") throw error;
    throw new ConfigFailure(error);
  }
}

/** The option for each key that has one. */
const flagOf: { readonly [Key in ConfigKey]?: FlagOf<ValueOf<Key>> } = {
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
  "vortexPeer.maxConnections": "maxConnections",
};

type Flags = DownloaderFlags & ServerFlags;

/** The options whose values are of type `T`. */
type FlagOf<T> = {
  [Flag in keyof Flags]-?: NonNullable<Flags[Flag]> extends T ? Flag : never;
}[keyof Flags];

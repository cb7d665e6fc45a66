import type { Command } from "commander";
import * as v from "valibot";
import type { ConfigSetting } from "../src/config/config.ts";
import { oneLine } from "../src/errors.ts";
import { addConfigOption, configEntries, effectiveConfig } from "./effective.ts";
import { type CliEnvironment, writeLine } from "./terminal.ts";
import {
  count,
  duration,
  flag,
  parseOptions,
  patience,
  portText,
  protocol,
  rate,
  text,
  unverifiedPieces,
} from "./values.ts";

const schema = v.object({
  ...configEntries,
  protocol: v.optional(protocol),
  connectTimeout: v.optional(duration),
  pieceTimeout: v.optional(duration),
  stallTimeout: v.optional(duration),
  concurrency: v.optional(count(1, 1024)),
  limit: v.optional(rate),
  patience: v.optional(patience),
  unverifiedPieces: v.optional(unverifiedPieces),
  host: v.optional(text),
  quicPort: v.optional(portText),
  tcpPort: v.optional(portText),
  grpcPort: v.optional(portText),
  uploadRate: v.optional(rate),
  maxConnections: v.optional(count(1, 1_000_000)),
  json: flag,
});

/** Adds `vortex-peer config`, which prints each effective setting and its source. */
export function addConfigCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("config")
    .summary("show the configuration in effect")
    .description(
      "Prints each setting of `get`, `piece` and `serve` with its source: an option, a line of the " +
        "configuration file, or the default. Takes the same options as those commands.",
    );
  addConfigOption(command)
    .option("--protocol <name>", "see `get`")
    .option("--connect-timeout <duration>", "see `get`")
    .option("--piece-timeout <duration>", "see `get`")
    .option("--stall-timeout <duration>", "see `get`")
    .option("--concurrency <n>", "see `get`")
    .option("--limit <rate>", "see `get`")
    .option("--patience <duration>", "see `get`")
    .option("--unverified-pieces <policy>", "see `get`")
    .option("--host <host>", "see `serve`")
    .option("--quic-port <port>", "see `serve`")
    .option("--tcp-port <port>", "see `serve`")
    .option("--grpc-port <port>", "see `serve`")
    .option("--upload-rate <rate>", "see `serve`")
    .option("--max-connections <n>", "see `serve`")
    .option(
      "--json",
      "print one JSON object on one line; durations are in milliseconds, sizes in bytes",
    )
    .action((options: unknown) => showConfig(options, environment));
}

async function showConfig(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const { json, ...flags } = parseOptions(schema, commandLine);
  const { settings } = await effectiveConfig(flags, environment);
  const { stdout, signal } = environment;
  for (const line of json ? [asJson(settings)] : asText(settings))
    await writeLine(stdout, line, signal);
}

function asJson(settings: readonly ConfigSetting[]): string {
  return JSON.stringify(
    Object.fromEntries(settings.map(({ key, value = null, source }) => [key, { value, source }])),
  );
}

/** Formats the settings as a table with aligned columns: key, value, source. */
function asText(settings: readonly ConfigSetting[]): string[] {
  const rows = settings.map(
    ({ key, text = "-", source }) => [key, oneLine(text), oneLine(source)] as const,
  );
  const keyWidth = Math.max(...rows.map(([key]) => key.length));
  const valueWidth = Math.max(...rows.map(([, value]) => value.length));
  return rows.map(
    ([key, value, source]) => `${key.padEnd(keyWidth)}  ${value.padEnd(valueWidth)}  ${source}`,
  );
}

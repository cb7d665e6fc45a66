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
  host: v.optional(text),
  quicPort: v.optional(portText),
  tcpPort: v.optional(portText),
  grpcPort: v.optional(portText),
  uploadRate: v.optional(rate),
  maxConnections: v.optional(count(1, 1_000_000)),
  json: flag,
});

/** `vortex-peer config`: what holds, and why. */
export function addConfigCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("config")
    .summary("show the configuration in effect")
    .description(
      "Prints every value that `get`, `piece` and `serve` go by, and where it comes from: an option, a line of the configuration " +
        "file, or the default. Options are those of the other commands.",
    );
  addConfigOption(command)
    .option("--protocol <name>", "as of `get`")
    .option("--connect-timeout <duration>", "as of `get`")
    .option("--piece-timeout <duration>", "as of `get`")
    .option("--stall-timeout <duration>", "as of `get`")
    .option("--concurrency <n>", "as of `get`")
    .option("--limit <rate>", "as of `get`")
    .option("--patience <duration>", "as of `get`")
    .option("--host <host>", "as of `serve`")
    .option("--quic-port <port>", "as of `serve`")
    .option("--tcp-port <port>", "as of `serve`")
    .option("--grpc-port <port>", "as of `serve`")
    .option("--upload-rate <rate>", "as of `serve`")
    .option("--max-connections <n>", "as of `serve`")
    .option(
      "--json",
      "print one JSON object, on one line; durations are in milliseconds, sizes in bytes",
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

/** Columns of keys, values and sources, each as wide as its longest. */
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

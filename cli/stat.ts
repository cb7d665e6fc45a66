import type { Command } from "commander";
import * as v from "valibot";
import { VortexError } from "../src/errors.ts";
import { type Clock, systemClock } from "../src/runtime.ts";
import type { TaskOutline } from "../src/task/discovery.ts";
import { addConfigOption, configEntries, effectiveDownloaderOptions } from "./effective.ts";
import {
  addTaskOptions,
  hostId,
  taskEntries,
  trustEntries,
  trustFlagNames,
  trustOptions,
} from "./peer-options.ts";
import type { CliDirectory } from "./sdk.ts";
import { type CliEnvironment, jsonLine, writeLine } from "./terminal.ts";
import { address, duration, flag, parseOptions } from "./values.ts";

/** Timeout for the first announced piece, as a multiple of `--listen`. */
const FIRST_PIECE_TIMEOUT_FACTOR = 10;

const schema = v.object({
  ...configEntries,
  ...taskEntries,
  ...trustEntries,
  peer: address,
  connectTimeout: v.optional(duration),
  stallTimeout: v.optional(duration),
  listen: v.optional(duration, "1s"),
  json: flag,
});

type StatOptions = v.InferOutput<typeof schema>;

/** Pieces of a task that a peer announced. */
interface HeldPieces {
  /** Piece numbers, ascending. Undefined when the peer does not implement the call. */
  readonly pieces: readonly number[] | undefined;
  /** True when the peer did not end the announcement, so more pieces may follow. */
  readonly growing: boolean;
}

/** Adds `vortex-peer stat`, which prints a task's layout and the pieces that a peer has of it. */
export function addStatCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("stat")
    .summary("show what a peer has of a task")
    .description(
      "Queries a peer over the Dragonfly API for a task's length, piece length, digest and the pieces " +
        "that the peer has. A peer that is still fetching keeps announcing new pieces: the command " +
        "ends once no new piece has arrived for the time of --listen.",
    )
    .requiredOption(
      "--peer <host:port>",
      "peer, with the port of its Dragonfly API (4000 for dfdaemon)",
    );
  addConfigOption(addTaskOptions(command))
    .option(
      "--tls",
      "use gRPC over TLS (default: in the clear, like dfdaemon); implied by --ca, --fingerprint and " +
        "--insecure",
    )
    .option(
      "--ca <file>",
      "trust the certificate authorities in this PEM file (default: those of the runtime)",
    )
    .option(
      "--fingerprint <hex...>",
      "trust the certificate with this SHA-256, 64 hex digits with or without colons, as printed " +
        "by `serve`; repeatable (default: trust by authority)",
    )
    .option(
      "--insecure",
      "accept any certificate, like dfdaemon (default: check it); not with --ca or --fingerprint",
    )
    .option("--connect-timeout <duration>", "timeout for connecting (default: 2s)")
    .option("--stall-timeout <duration>", "timeout without a response (default: 30s)")
    .option("--listen <duration>", "stop after this time without a new piece", "1s")
    .option(
      "--json",
      "print one JSON object on one line; `pieces` has [first, last] of each run of pieces",
    )
    .action((options: unknown) => statTask(options, environment));
}

async function statTask(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const options = parseOptions(schema, commandLine);
  const { stdout, signal, clock = systemClock } = environment;
  const { peer, taskId, kind } = options;
  const { apiTls, ...downloaderOptions } = await effectiveDownloaderOptions(options, environment);
  const tls =
    trustFlagNames(options).length > 0
      ? await trustOptions(options)
      : (apiTls ?? (options.tls ? {} : undefined));
  const sdk = await environment.loadSdk();
  await using directory = sdk.createDirectory({
    ...(tls && { tls }),
    ...(downloaderOptions.connectTimeout !== undefined && {
      connectTimeout: downloaderOptions.connectTimeout,
    }),
    ...(downloaderOptions.stallTimeout !== undefined && {
      stallTimeout: downloaderOptions.stallTimeout,
    }),
  });
  const outline = await directory.stat(peer, taskId, { signal, hostId: hostId(), kind });
  const held = await collectPieces(directory, outline, options, signal, clock);
  const lines = options.json ? [asJson(outline, held, options)] : asText(outline, held, options);
  for (const line of lines) await writeLine(stdout, line, signal);
}

/**
 * Collects announced pieces until the peer ends the stream or announces no new piece for `listen`
 * ms.
 */
async function collectPieces(
  directory: CliDirectory,
  { pieceCount }: TaskOutline,
  { peer, taskId, kind, listen: idleTimeout }: StatOptions,
  signal: AbortSignal,
  clock: Clock,
): Promise<HeldPieces> {
  const found = new Set<number>();
  if (pieceCount === 0) return { pieces: [], growing: false };
  const idle = new AbortController();
  const numbers = Array.from({ length: pieceCount }, (_, number) => number);
  const onIdle = (): void =>
    idle.abort(new VortexError("Aborted", "no new piece within the time of --listen"));
  // The first response may be slow. Announcements of the other stored pieces follow it at once.
  let timer = clock.setTimer(onIdle, FIRST_PIECE_TIMEOUT_FACTOR * idleTimeout);
  try {
    for await (const { number } of directory.sync(peer, taskId, {
      signal: AbortSignal.any([signal, idle.signal]),
      hostId: hostId(),
      kind,
      numbers,
    })) {
      found.add(number);
      timer.cancel();
      timer = clock.setTimer(onIdle, idleTimeout);
    }
  } catch (error) {
    if (signal.aborted || !idle.signal.aborted) {
      if (error instanceof VortexError && error.code === "RemoteUnimplemented")
        return { pieces: undefined, growing: false };
      throw error;
    }
  } finally {
    timer.cancel();
  }
  return { pieces: [...found].sort((a, b) => a - b), growing: idle.signal.aborted };
}

function asText(
  { contentLength, pieceLength, pieceCount, digest }: TaskOutline,
  held: HeldPieces,
  { taskId }: StatOptions,
): string[] {
  return [
    `task   ${taskId}`,
    `length ${contentLength} bytes, ${pieceCount} pieces of ${pieceLength}`,
    `digest ${digest ?? "unknown"}`,
    `has    ${heldText(held, pieceCount)}`,
  ];
}

function heldText({ pieces, growing }: HeldPieces, pieceCount: number): string {
  if (pieces === undefined) return "unknown: the peer does not implement this call";
  if (pieces.length === pieceCount) return "all pieces";
  const share = `${pieces.length} of ${pieceCount} pieces`;
  const runs = runsOf(pieces).map(([first, last]) =>
    first === last ? `${first}` : `${first}-${last}`,
  );
  return `${share}${runs.length > 0 ? `: ${runs.join(", ")}` : ""}${growing ? "; more may follow" : ""}`;
}

function asJson(
  outline: TaskOutline,
  { pieces, growing }: HeldPieces,
  { peer, taskId, kind }: StatOptions,
): string {
  const { contentLength, pieceLength, pieceCount, digest } = outline;
  const held = pieces && {
    pieces: runsOf(pieces),
    complete: pieces.length === pieceCount,
    growing,
  };
  return jsonLine({ peer, taskId, kind, contentLength, pieceLength, pieceCount, digest, ...held });
}

/** Groups ascending numbers into runs of consecutive numbers, each as `[first, last]`. */
function runsOf(numbers: readonly number[]): [first: number, last: number][] {
  const runs: [first: number, last: number][] = [];
  for (const number of numbers) {
    const run = runs.at(-1);
    if (run !== undefined && run[1] === number - 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs;
}

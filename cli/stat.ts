import type { Command } from "commander";
import * as v from "valibot";
import { VortexError } from "../src/errors.ts";
import { type Clock, systemClock } from "../src/runtime.ts";
import type { TaskOutline } from "../src/task/discovery.ts";
import { addConfigOption, configEntries, effectiveDownloader } from "./effective.ts";
import type { CliDirectory } from "./face.ts";
import {
  addTaskOptions,
  givenTrust,
  hostId,
  taskEntries,
  trustEntries,
  trustOf,
} from "./peer-options.ts";
import { type CliEnvironment, jsonLine, writeLine } from "./terminal.ts";
import { address, duration, flag, parseOptions } from "./values.ts";

/** How much longer the first piece is waited for than the others. */
const FIRST = 10;

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

/** What a peer says that it has of a task. */
interface Holding {
  /** Numbers of the pieces, ascending; undefined when the peer does not tell. */
  readonly pieces: readonly number[] | undefined;
  /** Whether the peer may still tell of others. */
  readonly growing: boolean;
}

/** `vortex-peer stat`: what a peer knows and has of a task. */
export function addStatCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("stat")
    .summary("ask a peer about a task")
    .description(
      "Asks a peer over the Dragonfly API how long a task is, how it is cut into pieces, its digest, and which pieces the peer " +
        "has. A peer that is still fetching goes on telling of pieces as they come: it is listened to until it says nothing new " +
        "for the time of --listen.",
    )
    .requiredOption(
      "--peer <host:port>",
      "the peer, at its port for the Dragonfly API, 4000 for stock peers",
    );
  addConfigOption(addTaskOptions(command))
    .option("--tls", "gRPC over TLS, as --ca, --fingerprint and --insecure have it")
    .option("--ca <file>", "certificate authorities to trust, PEM")
    .option("--fingerprint <hex...>", "SHA-256 of the peer's certificate, as `serve` prints it")
    .option("--insecure", "accept any certificate, as stock Dragonfly does")
    .option("--connect-timeout <duration>", "time for a connection to be made (default: 2s)")
    .option("--stall-timeout <duration>", "time without an answer (default: 30s)")
    .option(
      "--listen <duration>",
      "time without a new piece after which the peer has told of all that it has",
      "1s",
    )
    .option(
      "--json",
      "print one JSON object, on one line; `pieces` are [first, last] of each run of pieces",
    )
    .action((options: unknown) => statTask(options, environment));
}

async function statTask(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const options = parseOptions(schema, commandLine);
  const { stdout, signal, clock = systemClock } = environment;
  const { peer, taskId, kind } = options;
  const { apiTls, ...how } = await effectiveDownloader(options, environment);
  const tls =
    givenTrust(options).length > 0
      ? await trustOf(options)
      : (apiTls ?? (options.tls ? {} : undefined));
  const face = await environment.loadFace();
  await using directory = face.createDirectory({
    ...(tls && { tls }),
    ...(how.connectTimeout !== undefined && { connectTimeout: how.connectTimeout }),
    ...(how.stallTimeout !== undefined && { stallTimeout: how.stallTimeout }),
  });
  const outline = await directory.stat(peer, taskId, { signal, hostId: hostId(), kind });
  const holding = await listen(directory, outline, options, signal, clock);
  const lines = options.json
    ? [asJson(outline, holding, options)]
    : asText(outline, holding, options);
  for (const line of lines) await writeLine(stdout, line, signal);
}

/** Hears which pieces a peer has, until it ends or says nothing new for a while. */
async function listen(
  directory: CliDirectory,
  { pieceCount }: TaskOutline,
  { peer, taskId, kind, listen: patience }: StatOptions,
  signal: AbortSignal,
  clock: Clock,
): Promise<Holding> {
  const found = new Set<number>();
  if (pieceCount === 0) return { pieces: [], growing: false };
  const quiet = new AbortController();
  const both = AbortSignal.any([signal, quiet.signal]);
  const numbers = Array.from({ length: pieceCount }, (_, number) => number);
  const isQuiet = (): void =>
    quiet.abort(new VortexError("Aborted", "the peer has told of all that it has"));
  // The first answer may take a while; after it, those of pieces that are there follow at once.
  let timer = clock.setTimer(isQuiet, FIRST * patience);
  try {
    for await (const { number } of directory.sync(peer, taskId, {
      signal: both,
      hostId: hostId(),
      kind,
      numbers,
    })) {
      found.add(number);
      timer.cancel();
      timer = clock.setTimer(isQuiet, patience);
    }
  } catch (error) {
    if (signal.aborted || !quiet.signal.aborted) {
      if (error instanceof VortexError && error.code === "RemoteUnimplemented")
        return { pieces: undefined, growing: false };
      throw error;
    }
  } finally {
    timer.cancel();
  }
  return { pieces: [...found].sort((a, b) => a - b), growing: quiet.signal.aborted };
}

function asText(
  { contentLength, pieceLength, pieceCount, digest }: TaskOutline,
  holding: Holding,
  { taskId }: StatOptions,
): string[] {
  return [
    `task   ${taskId}`,
    `length ${contentLength} bytes, ${pieceCount} pieces of ${pieceLength}`,
    `digest ${digest ?? "not told"}`,
    `has    ${holdingText(holding, pieceCount)}`,
  ];
}

function holdingText({ pieces, growing }: Holding, pieceCount: number): string {
  if (pieces === undefined) return "not told: the peer does not serve this call";
  if (pieces.length === pieceCount) return "all pieces";
  const told = `${pieces.length} of ${pieceCount} pieces`;
  const runs = runsOf(pieces).map(([first, last]) =>
    first === last ? `${first}` : `${first}-${last}`,
  );
  return `${told}${runs.length > 0 ? `: ${runs.join(", ")}` : ""}${growing ? "; more may come" : ""}`;
}

function asJson(
  outline: TaskOutline,
  { pieces, growing }: Holding,
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

/** Ascending numbers as runs of numbers that follow each other. */
function runsOf(numbers: readonly number[]): [first: number, last: number][] {
  const runs: [first: number, last: number][] = [];
  for (const number of numbers) {
    const run = runs.at(-1);
    if (run !== undefined && run[1] === number - 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs;
}

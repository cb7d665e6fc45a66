import { stat } from "node:fs/promises";
import type { Command } from "commander";
import * as v from "valibot";
import { sideFilesOf } from "../adapters/files/side-files.ts";
import { fileSink } from "../adapters/files/sink.ts";
import type { CreateDownloaderOptions } from "../src/client/factory.ts";
import { VortexError } from "../src/errors.ts";
import { type ByteRange, MAX_PIECE_LENGTH } from "../src/piece.ts";
import { systemClock } from "../src/runtime.ts";
import type { TaskDownload, TaskOptions, TaskReport, TaskRequest } from "../src/task/task.ts";
import { effectiveDownloader } from "./effective.ts";
import { JsonReporter, jsonHelp } from "./json-reporter.ts";
import { jsonOutput, type Target, targetOf, withStream } from "./output.ts";
import { addFetchOptions, fetchEntries, hostId, peerTls } from "./peer-options.ts";
import { type Reporter, reportProgress } from "./reporter.ts";
import type { CliEnvironment } from "./terminal.ts";
import { TextReporter } from "./text-reporter.ts";
import {
  count,
  digest,
  flag,
  inOptions,
  outsideError,
  parent,
  parseOptions,
  patience,
  rangeText,
  rate,
  size,
  type TaskRange,
  taskRange,
  text,
} from "./values.ts";

const schema = v.object({
  ...fetchEntries,
  peer: v.array(parent),
  contentLength: v.optional(size),
  pieceLength: v.optional(size),
  range: v.optional(taskRange),
  concurrency: v.optional(count(1, 1024)),
  limit: v.optional(rate),
  patience: v.optional(patience),
  digest: v.optional(digest),
  output: text,
  force: flag,
  quiet: flag,
  verbose: flag,
  json: flag,
});

type GetOptions = v.InferOutput<typeof schema>;

/** `vortex-peer get`: a whole task, or a range of it, from all of its parents at once. */
export function addGetCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("get")
    .summary("fetch a task from one or more peers")
    .description(
      "Fetches a task, or a range of it, from all given peers at once, to a file or to standard output. Every piece is checked " +
        "against its digest, and what fails at one peer is had from another. Bytes go to FILE.part until all of them are there " +
        "and right; whatever ends the command before that, the same command goes on from there. Standard output gets the " +
        "content in order, each piece when it is right.",
    )
    .requiredOption(
      "--peer <address...>",
      "a peer: host:port, at its port for the protocol, or quic=host:port,tcp=host:port,grpc=host:port, of which each protocol " +
        "takes its own; may be given again. With api=host:port too, its port for the Dragonfly API, it is asked which pieces it " +
        "has; api=host:port alone leaves the rest for it to tell",
    );
  addFetchOptions(command)
    .option(
      "--content-length <size>",
      "length of the task; without it, the peers are asked, at port 4000 or as api= says",
    )
    .option(
      "--piece-length <size>",
      "with --content-length: length of a piece (default: as stock Dragonfly chooses)",
    )
    .option(
      "--range <a-b>",
      "only bytes a to b, b included as in HTTP; a- is all from there on, -n the last n with --content-length",
    )
    .option("--digest <digest>", "what the whole must turn out to be, such as sha256:…")
    .option("--concurrency <n>", "pieces at a time (default: 8)")
    .option("--limit <rate>", "bytes a second, such as 50MB/s or 50MiB/s (default: no limit)")
    .option(
      "--patience <duration>",
      "time for which the last peers are waited for when all are gone, 0 for none (default: 60s)",
    )
    .option("-o, --output <file>", "where to, - for standard output", "-")
    .option("--force", "write to a terminal, too")
    .option("--quiet", "tell nothing but why it failed")
    .option("--verbose", "tell what happens on the way")
    .option("--json", "tell in JSON, one object a line, see below")
    .addHelpText("after", `\n${jsonHelp}`)
    .action((options: unknown) => get(options, environment));
}

async function get(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const options = parseOptions(schema, commandLine);
  const request = requestOf(options);
  const how = await effectiveDownloader(options, environment);
  const target = await targetOf(options.output);
  const ending = new AbortController();
  const reporter = reporterOf(options, target, environment, (error) => ending.abort(error));
  const signal = AbortSignal.any([environment.signal, ending.signal]);
  try {
    await reporter.done(
      await fetchTask(request, target, how, options, { ...environment, signal }, reporter),
    );
  } catch (error) {
    reporter.failed();
    throw inOptions(VortexError.from(error, "Internal"), options.range, "task");
  }
}

/** What is asked of the task engine. @throws `InvalidArgument` for options that do not go together */
function requestOf(options: GetOptions): TaskRequest {
  const { taskId, kind, peer: parents, contentLength, pieceLength, digest, range } = options;
  if (pieceLength !== undefined && contentLength === undefined) {
    throw new VortexError("InvalidArgument", "--piece-length is of use with --content-length only");
  }
  if (pieceLength !== undefined && (pieceLength < 1 || pieceLength > MAX_PIECE_LENGTH)) {
    throw new VortexError(
      "InvalidArgument",
      `--piece-length ${pieceLength}: expected 1 to ${MAX_PIECE_LENGTH} bytes`,
    );
  }
  if (digest !== undefined && range !== undefined) {
    throw new VortexError(
      "InvalidArgument",
      `--digest ${digest.algorithm}:${digest.encoded}, --range ${rangeText(range)}: expected one of them: a digest of the whole ` +
        "cannot be checked over a part",
    );
  }
  return {
    taskId,
    kind,
    hostId: hostId(),
    parents,
    ...(contentLength !== undefined && { contentLength }),
    ...(pieceLength !== undefined && { pieceLength }),
    ...(digest && { digest: `${digest.algorithm}:${digest.encoded}` }),
    ...(range && { range: byteRangeOf(range, contentLength) }),
  };
}

function byteRangeOf(range: TaskRange, contentLength: number | undefined): ByteRange {
  if ("fromEnd" in range) {
    if (contentLength !== undefined) return { start: Math.max(0, contentLength - range.fromEnd) };
    throw new VortexError(
      "InvalidArgument",
      `--range -${range.fromEnd}: the last bytes need --content-length; expected A-B or A- without it`,
    );
  }
  const { start, end = start } = range;
  if (contentLength !== undefined && Math.max(start, end) > contentLength) {
    throw outsideError(range, contentLength, "task");
  }
  return range;
}

function reporterOf(
  { json, quiet, verbose }: GetOptions,
  target: Target,
  environment: CliEnvironment,
  onFailure: (error: unknown) => void,
): Reporter {
  if (!json) return new TextReporter(environment.stderr, { quiet, verbose });
  return new JsonReporter(jsonOutput(target, environment), verbose, onFailure);
}

async function fetchTask(
  request: TaskRequest,
  target: Target,
  how: CreateDownloaderOptions,
  options: GetOptions,
  environment: CliEnvironment,
  reporter: Reporter,
): Promise<TaskReport> {
  const { signal } = environment;
  const tls = await peerTls(options, how);
  const face = await environment.loadFace();
  await using downloader = face.createDownloader({
    ...how,
    ...tls,
    onProtocol: (event) => reporter.protocol(event),
  });
  const onEvent: TaskOptions["onEvent"] = (event) => reporter.event(event);
  const following = <Download extends TaskDownload>(download: Download): Download => {
    const stop = reportProgress(
      reporter,
      () => download.progress(),
      environment.clock ?? systemClock,
    );
    download.done.then(stop, stop);
    return download;
  };
  if (target.kind === "file") {
    const { path } = target;
    const download = following(
      downloader.downloadTask(request, { to: fileSink(path), signal, onEvent }),
    );
    try {
      return await download.done;
    } catch (error) {
      throw await withRest(VortexError.from(error, "Internal"), download, path);
    }
  }
  // Awaited here, since the downloader ends with this function.
  return await withStream(target, environment, options.force, async (write) => {
    const download = following(downloader.streamTask(request, { signal, onEvent }));
    for await (const chunk of download.content) await write(chunk);
    return download.done;
  });
}

/** The failure, with what the same command can go on from, if there is anything. */
async function withRest(
  error: VortexError,
  download: TaskDownload,
  path: string,
): Promise<VortexError> {
  const { part } = await sideFilesOf(path);
  // Whoever did not get as far as to open the file has left nothing there, whatever is there.
  const opened = download.progress().totalBytes !== undefined;
  const kept = opened && (await stat(part).catch(() => undefined)) !== undefined;
  if (!kept) return error;
  const message = `${error.message}; what is right is kept in ${part}, and the same command goes on from there`;
  return reworded(error, message);
}

function reworded(error: VortexError, message: string): VortexError {
  const { code, cause = error, addr } = error;
  return new VortexError(code, message, { cause, ...(addr !== undefined && { addr }) });
}

import { stat } from "node:fs/promises";
import type { Command } from "commander";
import * as v from "valibot";
import { sideFilesOf } from "../adapters/files/side-files.ts";
import { fileSink } from "../adapters/files/sink.ts";
import type { DownloaderOptions } from "../src/client/factory.ts";
import { VortexError } from "../src/errors.ts";
import { type ByteRange, MAX_PIECE_LENGTH } from "../src/piece.ts";
import { systemClock } from "../src/runtime.ts";
import type { TaskDownload, TaskReport, TaskStreamOptions } from "../src/task/task.ts";
import { effectiveDownloaderOptions } from "./effective.ts";
import { inFlags } from "./flag-words.ts";
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
  parent,
  parseOptions,
  patience,
  rangeError,
  rangeText,
  rate,
  size,
  type TaskRange,
  taskRange,
  text,
  withRangeFlag,
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

/**
 * Adds `vortex-peer get`, which fetches a task, or a range of it, from several parents in parallel.
 */
export function addGetCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("get")
    .summary("fetch a task from one or more peers")
    .description(
      "Fetches a task, or a range of it, from all given peers in parallel, to a file or to standard " +
        "output. Verifies each piece by its digest and fetches failed pieces from another peer. A file " +
        "is written to FILE.part and renamed when it is complete and verified. After an interruption, " +
        "run the same command again to resume. Standard output receives verified pieces in order.",
    )
    .requiredOption(
      "--peer <address...>",
      "peer, repeatable: host:port, or one address per protocol as " +
        "quic=host:port,tcp=host:port,grpc=host:port. Add api=host:port to query the peer's Dragonfly " +
        "API for its pieces; with api=host:port alone, that API also supplies the other addresses",
    );
  addFetchOptions(command)
    .option(
      "--content-length <size>",
      "task length (default: query the peers, at port 4000 or the port of api=)",
    )
    .option(
      "--piece-length <size>",
      "piece length, with --content-length (default: derived from it, like dfdaemon)",
    )
    .option(
      "--range <a-b>",
      "only bytes a to b, inclusive as in HTTP; a- is from a to the end, -n with --content-length the last n",
    )
    .option("--digest <digest>", "expected digest of the whole task, such as sha256:…")
    .option("--concurrency <n>", "max pieces in flight (default: 8)")
    .option("--limit <rate>", "rate limit, such as 50MB/s or 50MiB/s (default: none)")
    .option(
      "--patience <duration>",
      "how long to keep retrying when all peers fail, 0 to give up at once (default: 60s)",
    )
    .option("-o, --output <file>", "output file, - for standard output", "-")
    .option("--force", "write to standard output even if it is a terminal")
    .option("--quiet", "print errors only")
    .option("--verbose", "print events of peers and pieces")
    .option("--json", "print events as JSON, one object per line, see below")
    .addHelpText("after", `\n${jsonHelp}`)
    .action((options: unknown) => get(options, environment));
}

async function get(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const options = parseOptions(schema, commandLine);
  const request = requestOf(options);
  const downloaderOptions = await effectiveDownloaderOptions(options, environment);
  const target = await targetOf(options.output);
  const failure = new AbortController();
  const reporter = reporterOf(options, target, environment, (error) => failure.abort(error));
  const signal = AbortSignal.any([environment.signal, failure.signal]);
  try {
    await reporter.done(
      await fetchTask(
        request,
        target,
        downloaderOptions,
        options,
        { ...environment, signal },
        reporter,
      ),
    );
  } catch (error) {
    reporter.failed();
    throw withRangeFlag(VortexError.from(error, "Internal"), options.range, "task");
  }
}

/** Builds the task request. @throws `InvalidArgument` for options that exclude each other */
function requestOf(options: GetOptions): TaskStreamOptions {
  const { taskId, kind, peer: parents, contentLength, pieceLength, digest, range } = options;
  if (pieceLength !== undefined && contentLength === undefined) {
    throw new VortexError(
      "InvalidArgument",
      "--piece-length: expected together with --content-length, got --piece-length alone",
    );
  }
  if (pieceLength !== undefined && (pieceLength < 1 || pieceLength > MAX_PIECE_LENGTH)) {
    throw new VortexError(
      "InvalidArgument",
      `--piece-length: expected 1 to ${MAX_PIECE_LENGTH} bytes, got ${pieceLength}`,
    );
  }
  if (digest !== undefined && range !== undefined) {
    throw new VortexError(
      "InvalidArgument",
      `--digest, --range: expected one of them, got both (--range ${rangeText(range)}); ` +
        "a range cannot be checked against the digest of the whole task",
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
      `--range: expected A-B or A- without --content-length, got -${range.fromEnd}`,
    );
  }
  const { start, end = start + 1 } = range;
  if (contentLength !== undefined && Math.max(start + 1, end) > contentLength) {
    throw rangeError(range, contentLength, "task");
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
  request: TaskStreamOptions,
  target: Target,
  downloaderOptions: DownloaderOptions,
  options: GetOptions,
  environment: CliEnvironment,
  reporter: Reporter,
): Promise<TaskReport> {
  const { signal } = environment;
  const tls = await peerTls(options, downloaderOptions);
  const sdk = await environment.loadSdk((line) => {
    if (!options.quiet) reporter.warning(inFlags(line));
  });
  await using downloader = sdk.createDownloader({
    ...downloaderOptions,
    ...tls,
    onProtocol: (event) => reporter.protocol(event),
  });
  const onEvent: TaskStreamOptions["onEvent"] = (event) => reporter.event(event);
  const showProgress = (
    download: Pick<TaskDownload, "progress">,
    report: Promise<TaskReport>,
  ): void => {
    const stop = reportProgress(
      reporter,
      () => download.progress(),
      environment.clock ?? systemClock,
    );
    report.then(stop, stop);
  };
  if (target.kind === "file") {
    const { path } = target;
    const download = downloader.downloadTask({ ...request, to: fileSink(path), signal, onEvent });
    showProgress(download, download);
    try {
      return await download;
    } catch (error) {
      throw await withResumeHint(VortexError.from(error, "Internal"), download, path);
    }
  }
  // Awaited here, because leaving this function closes the downloader.
  return await withStream(target, environment, options.force, async (write) => {
    const download = downloader.streamTask({ ...request, signal, onEvent });
    showProgress(download, download.report);
    for await (const chunk of download.content) await write(chunk);
    return download.report;
  });
}

/**
 * Adds to the error's message that a partial file with verified pieces remains. Adds a hint to
 * resume if the same command may succeed.
 */
async function withResumeHint(
  error: VortexError,
  download: TaskDownload,
  path: string,
): Promise<VortexError> {
  const { part } = await sideFilesOf(path);
  // Before the length is known the sink is not open: a partial file is from another download then.
  const opened = download.progress().totalBytes !== undefined;
  const kept = opened && (await stat(part).catch(() => undefined)) !== undefined;
  if (!kept) return error;
  const hint = mayResume(error) ? ", run the same command again to resume" : "";
  return reworded(error, `${error.message}; verified pieces are kept in ${part}${hint}`);
}

/**
 * Returns true if a rerun may succeed where the download failed with `error`. A peer with wrong
 * bytes, without the task or without a common TLS setup would fail it again.
 */
function mayResume({ code, kind, cause }: VortexError): boolean {
  // The cause of a task that ran out of parents is an aggregate of their errors.
  const reasons: readonly unknown[] = cause instanceof AggregateError ? cause.errors : [];
  const errors = reasons.filter((reason) => reason instanceof VortexError);
  if (errors.length > 0) return errors.some(mayResume);
  switch (code) {
    // The code of a killed peer too.
    case "TruncatedContent":
      return true;
    case "HandshakeFailed":
    case "ProtocolNotSupported":
    case "Internal":
      return false;
    default:
      return ["transport", "timeout", "aborted", "local"].includes(kind);
  }
}

function reworded(error: VortexError, message: string): VortexError {
  const { code, cause = error, addr } = error;
  return new VortexError(code, message, { cause, ...(addr !== undefined && { addr }) });
}

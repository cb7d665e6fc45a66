import type { Command } from "commander";
import * as v from "valibot";
import { VortexError } from "../../src/errors.ts";
import { MAX_PIECE_LENGTH, planTask, type TaskPlan } from "../../src/piece.ts";
import { formatAddress, parseAddress } from "../../src/transport/address.ts";
import { nativeHashers } from "../native-hashers.ts";
import type { CliFace } from "./face.ts";
import { fetchTask } from "./fetch-task.ts";
import { withOutput } from "./output.ts";
import { addPeerOptions, createDownloader, hostId, type PeerTls, peerEntries, peerTls } from "./peer-options.ts";
import { ProgressLine } from "./progress.ts";
import type { CliEnvironment } from "./terminal.ts";
import { address, count, digest, flag, parseOptions, size, text } from "./values.ts";

/** Stock Dragonfly's port for gRPC, `upload.server.port`. */
const GRPC_PORT = 4000;

const schema = v.object({
  ...peerEntries,
  contentLength: v.optional(size),
  pieceLength: v.optional(size),
  statPeer: v.optional(address),
  concurrency: count(1, 1024),
  digest: v.optional(digest),
  output: text,
  force: flag,
  quiet: flag,
});

type GetOptions = v.InferOutput<typeof schema>;

/** `vortex-peer get`: all pieces of a task from one peer. */
export function addGetCommand(program: Command, environment: CliEnvironment): void {
  addPeerOptions(program.command("get"))
    .summary("fetch all pieces of a task from one peer")
    .description(
      "Fetches a whole task from one peer, to a file or to standard output. Every piece is checked against its digest; a file " +
        "has its name only when all of it is there and right. Standard output gets whole pieces, in order.",
    )
    .option("--content-length <size>", "length of the task; without it, the peer is asked over gRPC")
    .option("--piece-length <size>", "with --content-length: length of a piece (default: as stock Dragonfly chooses)")
    .option(
      "--stat-peer <host:port>",
      "whom to ask for the length (default: --peer for grpc, else the peer's host at port 4000)",
    )
    .option("--concurrency <n>", "pieces at a time; so many are held in memory on the way to standard output", "8")
    .option("--digest <digest>", "what the whole must turn out to be, such as sha256:…")
    .option("-o, --output <file>", "where to, - for standard output", "-")
    .option("--force", "write to a terminal, too")
    .option("--quiet", "no progress on the terminal")
    .action((options: unknown) => get(options, environment));
}

async function get(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const options = parseOptions(schema, commandLine);
  const { peer: addr, taskId, kind, concurrency } = options;
  if (options.pieceLength !== undefined && options.contentLength === undefined) {
    throw new VortexError("InvalidArgument", "--piece-length is of use with --content-length only");
  }
  await withOutput(options.output, environment, options.force, async (output) => {
    const face = await environment.loadFace();
    const tls = await peerTls(options);
    await using downloader = createDownloader(face, options, tls);
    const plan = await planOf(face, options, tls, environment.signal);
    const progress = new ProgressLine(environment.stderr, "fetching", options.quiet);
    let bytes = 0;
    try {
      await fetchTask({
        plan,
        concurrency,
        output,
        hashers: nativeHashers,
        digest: options.digest,
        download: (number, signal) => downloader.downloadPiece({ addr, hostId, taskId, kind, number }, { signal }),
        onBytes: (length) => {
          bytes += length;
          progress.update(bytes, plan.contentLength);
        },
        signal: environment.signal,
      });
    } catch (error) {
      progress.end();
      throw error;
    }
    progress.end(`fetched ${progress.summary(bytes)}`);
  });
}

async function planOf(face: CliFace, options: GetOptions, tls: PeerTls, signal: AbortSignal): Promise<TaskPlan> {
  const { contentLength, pieceLength } =
    options.contentLength === undefined ? await stat(face, options, tls, signal) : options;
  if (contentLength === undefined) throw new VortexError("Internal", "a task without a length");
  if (pieceLength !== undefined && pieceLength > MAX_PIECE_LENGTH) {
    throw new VortexError("InvalidArgument", `piece length ${pieceLength}: expected at most ${MAX_PIECE_LENGTH}`);
  }
  return planTask(contentLength, pieceLength);
}

async function stat(
  face: CliFace,
  options: GetOptions,
  { stat: tls }: PeerTls,
  signal: AbortSignal,
): Promise<{ readonly contentLength: number; readonly pieceLength: number }> {
  const { peer, protocol, taskId, pieceTimeout, stallTimeout } = options;
  const host = parseAddress(peer).host;
  const addr = options.statPeer ?? (protocol === "grpc" ? peer : formatAddress({ host, port: GRPC_PORT }));
  try {
    return await face.statTask(addr, taskId, { signal, pieceTimeout, stallTimeout, ...(tls && { tls }) });
  } catch (error) {
    const failure = VortexError.from(error, "Internal");
    if (failure.kind === "aborted") throw failure;
    throw new VortexError(
      failure.code,
      `the length of the task is not to be learnt from ${addr} (${failure.message}); give --content-length or --stat-peer`,
      { cause: failure, addr },
    );
  }
}

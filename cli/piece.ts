import type { Command } from "commander";
import * as v from "valibot";
import { oneLine, VortexError } from "../src/errors.ts";
import { effectiveDownloaderOptions } from "./effective.ts";
import { inFlags } from "./flag-words.ts";
import { targetOf, type Write, withFile, withStream } from "./output.ts";
import { addFetchOptions, fetchEntries, hostId, peerTls } from "./peer-options.ts";
import type { CliEnvironment } from "./terminal.ts";
import {
  byteRange,
  count,
  flag,
  parseOptions,
  peerAddress,
  text,
  withRangeFlag,
} from "./values.ts";

const schema = v.object({
  ...fetchEntries,
  peer: peerAddress,
  number: count(0, 0xffffffff),
  range: v.optional(byteRange),
  output: text,
  force: flag,
});

/** Adds `vortex-peer piece`, which fetches one piece from one peer. */
export function addPieceCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("piece")
    .summary("fetch one piece from one peer")
    .description(
      "Fetches one piece from one peer, to a file or to standard output, and verifies it by its digest. " +
        "A file is created only after the verification. Standard output lacks the end of a piece that " +
        "failed.",
    )
    .requiredOption(
      "--peer <address>",
      "peer: host:port, or one address per protocol as quic=host:port,tcp=host:port,grpc=host:port",
    );
  addFetchOptions(command)
    .requiredOption("--number <n>", "piece number, from 0")
    .option(
      "--range <a-b>",
      "only bytes a to b of the piece, inclusive; a range cannot be verified by the digest of the piece",
    )
    .option("-o, --output <file>", "output file, - for standard output", "-")
    .option("--force", "write to standard output even if it is a terminal")
    .action((options: unknown) => fetchPiece(options, environment));
}

async function fetchPiece(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const options = parseOptions(schema, commandLine);
  const { peer: addr, taskId, kind, number, range } = options;
  const downloaderOptions = await effectiveDownloaderOptions(options, environment);
  const fill = async (write: Write): Promise<void> => {
    const tls = await peerTls(options, downloaderOptions);
    const sdk = await environment.loadSdk((line) => {
      environment.stderr.write(`${oneLine(inFlags(line))}\n`);
    });
    await using downloader = sdk.createDownloader({ ...downloaderOptions, ...tls });
    const request = { addr, hostId: hostId(), taskId, kind, number, ...(range && { range }) };
    const piece = await downloader
      .downloadPiece({ ...request, signal: environment.signal })
      .catch((error: unknown) => {
        throw withRangeFlag(VortexError.from(error, "Internal"), range, "piece");
      });
    for await (const chunk of piece.content) await write(chunk);
  };
  const target = await targetOf(options.output);
  await (target.kind === "file"
    ? withFile(target.path, environment.signal, fill)
    : withStream(target, environment, options.force, fill));
}

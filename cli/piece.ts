import type { Command } from "commander";
import * as v from "valibot";
import { VortexError } from "../src/errors.ts";
import { effectiveDownloader } from "./effective.ts";
import { targetOf, type Write, withFile, withStream } from "./output.ts";
import { addFetchOptions, fetchEntries, hostId, peerTls } from "./peer-options.ts";
import type { CliEnvironment } from "./terminal.ts";
import { byteRange, count, flag, inOptions, parseOptions, peerAddress, text } from "./values.ts";

const schema = v.object({
  ...fetchEntries,
  peer: peerAddress,
  number: count(0, 0xffffffff),
  range: v.optional(byteRange),
  output: text,
  force: flag,
});

/** `vortex-peer piece`: one piece from one peer. */
export function addPieceCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("piece")
    .summary("fetch one piece from one peer")
    .description(
      "Fetches one piece from one peer, to a file or to standard output. The content is checked against its digest; a file " +
        "has its name only after that, and standard output lacks the end of a piece that failed.",
    )
    .requiredOption(
      "--peer <address>",
      "the peer: host:port, at its port for the protocol; or quic=host:port,tcp=host:port,grpc=host:port, of which each protocol " +
        "takes its own",
    );
  addFetchOptions(command)
    .requiredOption("--number <n>", "number of the piece, from 0")
    .option(
      "--range <a-b>",
      "only bytes a to b of the piece, b included; a part cannot be checked against the digest of the piece",
    )
    .option("-o, --output <file>", "where to, - for standard output", "-")
    .option("--force", "write to a terminal, too")
    .action((options: unknown) => fetchPiece(options, environment));
}

async function fetchPiece(commandLine: unknown, environment: CliEnvironment): Promise<void> {
  const options = parseOptions(schema, commandLine);
  const { peer: addr, taskId, kind, number, range } = options;
  const how = await effectiveDownloader(options, environment);
  const fill = async (write: Write): Promise<void> => {
    const tls = await peerTls(options, how);
    await using downloader = (await environment.loadFace()).createDownloader({ ...how, ...tls });
    const request = { addr, hostId: hostId(), taskId, kind, number, ...(range && { range }) };
    const piece = await downloader
      .downloadPiece(request, { signal: environment.signal })
      .catch((error: unknown) => {
        throw inOptions(VortexError.from(error, "Internal"), range, "piece");
      });
    for await (const chunk of piece.content) await write(chunk);
  };
  const target = await targetOf(options.output);
  await (target.kind === "file"
    ? withFile(target.path, fill)
    : withStream(target, environment, options.force, fill));
}

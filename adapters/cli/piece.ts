import type { Command } from "commander";
import * as v from "valibot";
import type { Piece } from "../../src/piece.ts";
import { type Output, withOutput } from "./output.ts";
import { addPeerOptions, createDownloader, hostId, peerEntries, peerTls } from "./peer-options.ts";
import type { CliEnvironment } from "./terminal.ts";
import { byteRange, count, flag, parseOptions, text } from "./values.ts";

const schema = v.object({
  ...peerEntries,
  number: count(0, 0xffffffff),
  range: v.optional(byteRange),
  output: text,
  force: flag,
});

/** `vortex-peer piece`: one piece from one peer. */
export function addPieceCommand(program: Command, environment: CliEnvironment): void {
  addPeerOptions(program.command("piece"))
    .summary("fetch one piece from one peer")
    .description(
      "Fetches one piece from one peer, to a file or to standard output. The content is checked against its digest; a file " +
        "has its name only after that, and standard output lacks the end of a piece that failed.",
    )
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
  await withOutput(options.output, environment, options.force, async (output) => {
    await using downloader = createDownloader(await environment.loadFace(), options, await peerTls(options));
    const request = { addr, hostId, taskId, kind, number, ...(range && { range }) };
    await copy(await downloader.downloadPiece(request, { signal: environment.signal }), output);
  });
}

async function copy(piece: Piece, output: Output): Promise<void> {
  let position = 0;
  for await (const chunk of piece.content) {
    await output.write(position, chunk);
    position += chunk.length;
  }
}

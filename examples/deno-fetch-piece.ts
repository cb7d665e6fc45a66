/**
 * Deno: fetches one piece of a task from a peer into a file, with the least permissions.
 *
 *     deno run --allow-net=10.0.0.7:4005 --allow-write=piece.bin \
 *       examples/deno-fetch-piece.ts 10.0.0.7:4005 TASK_ID 0 piece.bin
 */
import { createDownloader, VortexError } from "vortex-peer";

const [addr, taskId, number, path] = Deno.args;
if (addr === undefined || taskId === undefined || number === undefined || path === undefined) {
  console.error("expected: HOST:PORT TASK_ID NUMBER FILE");
  Deno.exit(2);
}

const downloader = createDownloader({ protocol: "tcp" });
try {
  const piece = await downloader.downloadPiece({
    addr,
    taskId,
    number: Number(number),
    hostId: "deno-fetch-piece",
    signal: AbortSignal.timeout(60_000),
  });
  // Resolves only after length and digest are verified, so the file never has wrong content.
  await Deno.writeFile(path, await piece.bytes());
  console.log(`piece ${piece.number}: ${piece.length} bytes at ${piece.offset}, ${piece.digest}`);
} catch (error) {
  if (!(error instanceof VortexError)) throw error;
  // `code` says what happened, `kind` who caused it. Retry "transport" and "timeout".
  console.error(`${error.code} (${error.kind}): ${error.message}`);
  Deno.exitCode = 1;
} finally {
  await downloader.close();
}

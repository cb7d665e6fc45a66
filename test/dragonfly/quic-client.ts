/**
 * Fetches a task from a dfdaemon over QUIC. Runs on Deno only, with a flag that accepts dfdaemon's
 * self-signed certificate:
 *
 *     deno run --allow-all --unstable-net --unsafely-ignore-certificate-errors=d7y \
 *       quic-client.ts ADDRESS TASK LENGTH FILE
 *
 * Prints the duration in ms.
 */
import process from "node:process";
import { createDownloader } from "../../entry/deno.ts";

const [, , addr = "", taskId = "", length, to = ""] = process.argv;
await using downloader = createDownloader({ protocol: "quic", tls: { verify: false } });
const started = performance.now();
await downloader.downloadTask({ taskId, contentLength: Number(length), parents: [addr], to });
console.log(performance.now() - started);

/**
 * Fetches pieces over QUIC without closing its downloader, in a separate process:
 *
 *     forgetful-peer.ts FACE ORDER
 *
 * FACE is `node`, `bun`, `node:quic` or `deno`; ORDER is a `ForgetfulOrder` in JSON.
 *
 * Prints the length of each fetched piece in bytes. Exits on its own.
 */
import process from "node:process";
import { nodeQuicTransport } from "../../adapters/node-quic/transport.ts";
import type { Face } from "../../entry/face.ts";
import { createDownloader } from "../../src/client/core-factory.ts";
import type { ForgetfulOrder } from "./restart.ts";

const [, , name, order = "{}"] = process.argv;
const { addr, ca, taskId, numbers } = JSON.parse(order) as ForgetfulOrder;
const options = { protocol: "quic", connectTimeout: 20_000 } as const;
const downloader =
  name === "node:quic"
    ? createDownloader({ ...options, transport: await nodeQuicTransport({ tls: { ca } }) })
    : (await faceOf(name)).createDownloader({ ...options, tls: { ca } });
for (const number of numbers) {
  const piece = await downloader.downloadPiece({ addr, hostId: "host", taskId, number });
  console.log((await piece.bytes()).length);
}

/** Imports the entry point of one runtime only, since those of other runtimes may not load. */
function faceOf(runtime: string | undefined): Promise<Pick<Face, "createDownloader">> {
  if (runtime === "bun") return import("../../entry/bun.ts");
  return runtime === "deno" ? import("../../entry/deno.ts") : import("../../entry/node.ts");
}

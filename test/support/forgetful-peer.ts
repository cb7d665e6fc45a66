/**
 * Test program: fetches pieces over QUIC and does not close its downloader.
 *
 *     forgetful-peer.ts FACE ORDER
 *
 * FACE names the package entry point or binding: `node`, `bun`, `node:quic` or `deno`. ORDER is a
 * `ForgetfulOrder` in JSON.
 *
 * It prints the length of each fetched piece in bytes. It calls no `exit`, so it ends only if
 * nothing keeps the process alive.
 */
import process from "node:process";
import { nodeQuicTransport } from "../../adapters/node-quic/lazy-transport.ts";
import type { RuntimeApi } from "../../entry/runtime-api.ts";
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

/**
 * Imports only the entry point of the given runtime, because other entry points may not load on it.
 */
function faceOf(runtime: string | undefined): Promise<Pick<RuntimeApi, "createDownloader">> {
  if (runtime === "bun") return import("../../entry/bun.ts");
  return runtime === "deno" ? import("../../entry/deno.ts") : import("../../entry/node.ts");
}

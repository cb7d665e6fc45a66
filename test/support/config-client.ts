/**
 * A program that knows nothing of protocols: it fetches a task as the configuration that `VORTEX_PEER_CONFIG` names says, and prints
 * the protocol in use and the SHA-256 of what came. Arguments: the peer's address for the Dragonfly API, and the task id.
 */
import { createHash } from "node:crypto";
import process from "node:process";
import { loadConfig } from "../../adapters/files/config-file.ts";
import { runtimeName } from "./fixtures.ts";

const [apiAddr = "", taskId = ""] = process.argv.slice(2);
const faces = {
  bun: () => import("../../entry/bun.ts"),
  deno: () => import("../../entry/deno.ts"),
  node: () => import("../../entry/node.ts"),
};
const { createDownloader } = await faces[runtimeName]();

const config = await loadConfig();
const downloader = createDownloader(await config.downloader());
const { content, done } = downloader.streamTask({
  taskId,
  hostId: "config-client",
  parents: [{ apiAddr }],
});
const hash = createHash("sha256");
for await (const chunk of content) hash.update(chunk);
await done;
await downloader.close();
console.log(`${config.config.download.protocol} ${hash.digest("hex")}`);
process.exit(0);

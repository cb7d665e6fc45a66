/**
 * Test program: downloads a task with the settings of the configuration file that
 * `VORTEX_PEER_CONFIG` names. It has no protocol-specific code. It prints the configured protocol
 * and the SHA-256 of the content.
 *
 *     config-client.ts API_ADDRESS TASK_ID
 */
import { createHash } from "node:crypto";
import process from "node:process";
import { loadConfig } from "../../adapters/files/load-config.ts";
import { runtimeName } from "./fixtures.ts";

const [apiAddr = "", taskId = ""] = process.argv.slice(2);
const entries = {
  bun: () => import("../../entry/bun.ts"),
  deno: () => import("../../entry/deno.ts"),
  node: () => import("../../entry/node.ts"),
};
const { createDownloader } = await entries[runtimeName]();

const config = await loadConfig();
const downloader = createDownloader(await config.downloader());
const { content, report: done } = downloader.streamTask({
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

// `npm run demo` runs the demo on Node, `bun run demo` on Bun.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const demo = fileURLToPath(new URL("../demo/main.ts", import.meta.url));
const byBun =
  process.versions.bun !== undefined || process.env.npm_config_user_agent?.startsWith("bun/");
// Node 20 does not run TypeScript, so tsx translates it.
const command = byBun ? [process.env.npm_execpath ?? "bun"] : [process.execPath, "--import", "tsx"];
const [program, ...flags] = command;
const { status, error } = spawnSync(program, [...flags, demo, ...process.argv.slice(2)], {
  stdio: "inherit",
});
if (error !== undefined) console.error(`demo: cannot start ${program}: ${error.message}`);
process.exitCode = status ?? 1;

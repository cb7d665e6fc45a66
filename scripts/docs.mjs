// Generates the API reference from the docstrings, in docs/api or another directory. docs.test.ts
// checks that the docstrings are complete.
//
//     npm run docs
//     npm run docs -- DIRECTORY
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const output = resolve(process.argv[2] ?? join(root, "docs", "api"));
const { exports } = JSON.parse(readFileSync(join(root, "deno.json"), "utf8"));
const entries = [...new Set(Object.values(exports))];

// Removes pages of symbols that are no longer exported.
if (process.argv[2] === undefined) rmSync(output, { recursive: true, force: true });
const args = ["doc", "--quiet", "--html", "--name=vortex-peer", `--output=${output}`, ...entries];
const { status, error } = spawnSync(join(root, "node_modules", ".bin", "deno"), args, {
  cwd: root,
  stdio: "inherit",
});
if (error !== undefined) console.error(`docs: cannot start deno: ${error.message}`);
if (status === 0) console.log(join(output, "index.html"));
process.exitCode = status ?? 1;

// Checks the built package: agreement of the manifests, publint and "are the types wrong" on the
// tarball, no type of Connect or Protobuf in the declarations, and the size of the core.
//
//     npm run check:package           builds first
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { foreignTypes } from "./package/declarations.mjs";
import { disagreements } from "./package/manifests.ts";
import { pack } from "./package/project.mjs";

/** Maximum size of all exports of `vortex-peer/core` in bytes: bundled, minified and gzipped. */
const MAX_CORE_BYTES = 28_000;
const root = fileURLToPath(new URL("..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "vortex-peer-package-"));
const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const problems = [...(await disagreements(root)), ...foreignTypes(root, exports)];

try {
  const tarball = pack(scratch);
  for (const [tool, ...args] of [
    ["publint", "run", "--strict", tarball],
    // Node 10's resolution does not know `exports`, and the package has only ES modules.
    ["attw", "--profile", "esm-only", "--format", "ascii", "--quiet", tarball],
  ]) {
    const run = spawnSync(process.execPath, [binOf(tool), ...args], {
      cwd: root,
      encoding: "utf8",
    });
    if (run.status !== 0) problems.push(`${tool}:\n${run.stdout}${run.stderr}`);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

const { bytes, imports } = await coreBundle();
console.log(`core alone: ${bytes} bytes minified and gzipped, budget ${MAX_CORE_BYTES}`);
if (bytes > MAX_CORE_BYTES)
  problems.push(`the core weighs ${bytes} bytes, more than ${MAX_CORE_BYTES}`);
if (imports.length > 0) problems.push(`the core imports ${imports.join(", ")}`);
for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;

/** Bundles the core and its dependencies into one module, like a user's bundler. */
async function coreBundle() {
  const bundle = await rolldown({
    input: join(root, "dist/core.js"),
    platform: "neutral",
    resolve: { conditionNames: ["import"], mainFields: ["module", "main"] },
  });
  const { output } = await bundle.generate({ format: "esm", minify: true, codeSplitting: false });
  await bundle.close();
  const [chunk] = output;
  return {
    bytes: gzipSync(chunk.code, { level: 9 }).length,
    imports: [...chunk.imports, ...chunk.dynamicImports],
  };
}

function binOf(tool) {
  const file = { publint: "publint/src/cli.js", attw: "@arethetypeswrong/cli/dist/index.js" }[tool];
  return join(root, "node_modules", file);
}

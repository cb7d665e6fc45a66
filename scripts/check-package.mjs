// Checks the package that is built: that the manifests agree, what publint and "are the types wrong" say of the tarball, and
// what the core weighs.
//
//     npm run check:package           builds first
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { disagreements } from "./package/manifests.ts";
import { pack } from "./package/project.mjs";

/** Of everything that `vortex-peer/core` exports, bundled, minified and gzipped. */
const CORE_BUDGET = 25_000;
const root = fileURLToPath(new URL("..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "vortex-peer-package-"));
const problems = await disagreements(root);

try {
  const tarball = pack(scratch);
  for (const [tool, ...args] of [
    ["publint", "run", "--strict", tarball],
    // Node 10's resolution knows no exports, and the package is of ES modules only.
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
console.log(`core alone: ${bytes} bytes minified and gzipped, budget ${CORE_BUDGET}`);
if (bytes > CORE_BUDGET) problems.push(`the core weighs ${bytes} bytes, more than ${CORE_BUDGET}`);
if (imports.length > 0) problems.push(`the core imports ${imports.join(", ")}`);
for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;

/** All of the core in one module, as a bundler makes it, with its dependencies. */
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

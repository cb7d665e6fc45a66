// TypeScript of this repository for Node 20, which does not read it: bundled once, instead of translated by a loader in each of the
// several hundred processes that the tests start. A process begins in a third of the time.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { rolldown } from "rolldown";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Folders whose files may be run by themselves. */
const PROGRAMS = ["test", "bench", "demo", "examples", "cli"];
/** These are for one runtime, and import what only it has. */
const OF_OTHER_RUNTIMES = /^examples\/(bun|deno|edge)-/;

/**
 * Bundles every file that may be run by itself.
 *
 * @returns `runner`, a program for Node: `node RUNNER FILE ARGS…` runs a TypeScript file in its bundled form, and one that is not of this
 * repository through a loader; `bundleOf(file)`, the bundle of a file; and `remove()`, which deletes them all
 */
export async function bundleForNode() {
  const directory = join(root, `node_modules/.cache/vortex-peer-node-${process.pid}`);
  const input = Object.fromEntries(
    PROGRAMS.flatMap(typescriptIn).map((file) => [file.replace(/\.ts$/, ""), file]),
  );
  const build = await rolldown({
    cwd: root,
    input,
    platform: "node",
    transform: { target: "node20" },
    // Packages stay outside; helpers of the translation come with the bundler itself.
    external: (id) => /^[^./\0]/.test(id) && !id.startsWith("@oxc-project/runtime/"),
    plugins: [placesOfSources()],
    logLevel: "silent",
  });
  await build.write({
    dir: directory,
    format: "esm",
    sourcemap: true,
    entryFileNames: "[name].mjs",
    chunkFileNames: "chunks/[name]-[hash].mjs",
  });
  await build.close();
  const bundleOf = (file) =>
    join(directory, relative(root, join(root, file)).replace(/\.ts$/, ".mjs"));
  mkdirSync(directory, { recursive: true });
  const runner = join(directory, "run.mjs");
  writeFileSync(runner, runnerSource(directory));
  return { runner, bundleOf, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

function typescriptIn(folder) {
  return readdirSync(join(root, folder), { recursive: true })
    .map((file) => join(folder, String(file)))
    .filter(
      (file) => file.endsWith(".ts") && !file.endsWith(".d.ts") && !OF_OTHER_RUNTIMES.test(file),
    );
}

/** Bundled code finds the files of this repository from where its source is. */
function placesOfSources() {
  return {
    name: "places-of-sources",
    transform(code, id) {
      if (!id.startsWith(root) || !code.includes("import.meta.url")) return null;
      return code.replaceAll("import.meta.url", JSON.stringify(pathToFileURL(id).href));
    },
  };
}

function runnerSource(directory) {
  return `import { existsSync } from "node:fs";
import { relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";
// What this program starts of its own kind is run as it was.
process.execArgv.push(process.argv[1]);
process.argv.splice(1, 2, resolve(process.argv[2]));
const source = process.argv[1];
const bundle = resolve(${JSON.stringify(directory)}, relative(${JSON.stringify(root)}, source).replace(/\\.ts$/, ".mjs"));
if (!existsSync(bundle)) (await import("tsx/esm/api")).register();
await import(pathToFileURL(existsSync(bundle) ? bundle : source).href);
`;
}

// Bundles TypeScript of this repository for Node 20, which does not run it. Bundling once replaces
// a loader in each of the several hundred processes that the tests start. A process starts in a
// third of the time.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { rolldown } from "rolldown";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Folders with files that may be run as programs. */
const PROGRAMS = ["test", "bench", "demo", "examples", "cli"];
/** Programs for one other runtime, with imports that only it has. */
const OF_OTHER_RUNTIMES = /^examples\/(bun|deno|edge)-/;

/**
 * Bundles every file that may be run as a program.
 *
 * @returns `runner`, a program for Node, `bundleOf(file)`, the bundle of a file, and `remove()`,
 *   which deletes all bundles. `node RUNNER FILE ARGS…` runs the bundle of a TypeScript file. It
 *   runs files outside of this repository through a loader.
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
    // Packages stay external. Helpers of the translation come with the bundler itself.
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

/** Lets bundled code locate files of this repository relative to its original source. */
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
// Programs that this one starts with execArgv run through this runner too.
process.execArgv.push(process.argv[1]);
process.argv.splice(1, 2, resolve(process.argv[2]));
const source = process.argv[1];
const bundle = resolve(${JSON.stringify(directory)}, relative(${JSON.stringify(root)}, source).replace(/\\.ts$/, ".mjs"));
if (!existsSync(bundle)) (await import("tsx/esm/api")).register();
await import(pathToFileURL(existsSync(bundle) ? bundle : source).href);
`;
}

/** Type-checks code samples that import the package's subpaths, as in a user's project. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { root, runToEnd } from "./run.ts";
import { inTempDir, type Sample } from "./samples.ts";

/**
 * Type-checks samples and files of the repository. Returns the compiler errors, one line for each,
 * or an empty list.
 */
export function typeErrors(
  samples: readonly Sample[],
  files: readonly string[],
): Promise<string[]> {
  return inTempDir(async (directory) => {
    for (const sample of samples) await writeFile(join(directory, nameOf(sample)), sample.code);
    const config = {
      extends: join(root, "tsconfig.json"),
      compilerOptions: {
        isolatedDeclarations: false,
        declaration: false,
        moduleDetection: "force",
        types: ["node", "bun"],
        typeRoots: [join(root, "node_modules/@types")],
        paths: await sourcePaths(),
      },
      include: ["*.mts", ...files.map((file) => join(root, file))],
    };
    await writeFile(join(directory, "tsconfig.json"), JSON.stringify(config));
    const compiler = join(root, "node_modules/typescript/bin/tsc");
    const { code, out, err } = await runToEnd([
      "node",
      compiler,
      "--pretty",
      "false",
      "-p",
      directory,
    ]);
    const lines = `${out}${err}`.split("\n").filter((line) => line !== "");
    return code === 0 ? [] : lines.map((line) => line.replace(/^\S*?([^/\s]+\.mts)/, "$1"));
  });
}

/** Returns the source file of each subpath of the package, for the compiler option `paths`. */
async function sourcePaths(): Promise<Record<string, string[]>> {
  const { exports } = JSON.parse(await readFile(join(root, "deno.json"), "utf8")) as {
    readonly exports: Readonly<Record<string, string>>;
  };
  const paths = Object.entries(exports).map(([subpath, file]) => [
    `vortex-peer${subpath.slice(1)}`,
    [join(root, file)],
  ]);
  // As in the published package, every entry point except the workers' has the types of Node's.
  const entry = { "vortex-peer": [join(root, "entry/node.ts")] };
  // An optional peer dependency, installed by the user.
  const types = import.meta.resolve("@opentelemetry/api").replace(/\.mjs$/, ".d.mts");
  const api = { "@opentelemetry/api": [fileURLToPath(types)] };
  return { ...Object.fromEntries(paths), ...entry, ...api };
}

/**
 * Returns a file name for a sample: its page and first line. So compiler errors identify the
 * sample.
 */
function nameOf({ page, line }: Sample): string {
  return `${page.replaceAll(/[/:]/g, "_")}_line_${line}.mts`;
}

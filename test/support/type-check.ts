/** Type-checks code as a user of the package would have it checked. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { root, runToEnd } from "./run.ts";
import { inTempDir, type Sample } from "./samples.ts";

/** What the compiler has to say of samples and of files of this repository, one line each; none when all is well. */
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

/** The subpaths of the package, and the sources that they are built of. */
async function sourcePaths(): Promise<Record<string, string[]>> {
  const { exports } = JSON.parse(await readFile(join(root, "deno.json"), "utf8")) as {
    readonly exports: Readonly<Record<string, string>>;
  };
  const paths = Object.entries(exports).map(([subpath, file]) => [
    `vortex-peer${subpath.slice(1)}`,
    [join(root, file)],
  ]);
  // The types of every face but the workers' are those of Node's, in the published package too.
  const face = { "vortex-peer": [join(root, "entry/node.ts")] };
  // The user has it installed.
  const types = import.meta.resolve("@opentelemetry/api").replace(/\.mjs$/, ".d.mts");
  const api = { "@opentelemetry/api": [fileURLToPath(types)] };
  return { ...Object.fromEntries(paths), ...face, ...api };
}

/** So that a compiler's message tells which sample it is about: the page and the line at which it begins. */
function nameOf({ page, line }: Sample): string {
  return `${page.replaceAll(/[/:]/g, "_")}_line_${line}.mts`;
}

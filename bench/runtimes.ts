/** Runtimes of this machine, and the commands that run programs of this folder on them. */
import { execFile } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { rolldown } from "rolldown";
import type { RuntimeName } from "./subjects.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const bench = join(root, "bench");
const bin = (name: string): string => join(root, "node_modules/.bin", name);

/** Installed runtime. */
export interface Runtime {
  readonly name: RuntimeName;
  /** Name with version, as shown in rows: `node 20`, `bun 1.4`. */
  readonly title: string;
  readonly version: string;
  /** Returns the command that runs a program of this folder. */
  command(program: "server" | "client"): readonly string[];
}

/** Runtimes of this machine. */
export interface Runtimes {
  readonly list: readonly Runtime[];
  /** Reasons why other runtimes are missing. */
  readonly missing: readonly string[];
}

/**
 * Finds Node on the PATH, Bun and Deno in `node_modules`, and additional Nodes.
 *
 * Node 20 does not run TypeScript, and a loader would distort the measurement. So the programs are
 * bundled for it, without their packages.
 *
 * @param nodes paths of additional Node binaries
 */
export async function findRuntimes(nodes: readonly string[]): Promise<Runtimes> {
  const directory = join(root, `node_modules/.cache/vortex-peer-bench-${process.pid}`);
  const missing: string[] = [];
  const list: Runtime[] = [];
  const add = async (
    name: RuntimeName,
    path: string,
    command: Runtime["command"],
  ): Promise<void> => {
    try {
      const version = await versionOf(name, path);
      const [major, minor] = version.split(".");
      list.push({
        name,
        title: name === "node" ? `node ${major}` : `${name} ${major}.${minor}`,
        version,
        command,
      });
    } catch (error) {
      missing.push(`${path}: ${error instanceof Error ? error.message.split("\n")[0] : error}`);
    }
  };
  for (const path of [
    "bun" in process.versions || "deno" in process.versions ? "node" : process.execPath,
    ...nodes,
  ]) {
    await add("node", path, (program) => [path, join(directory, `${program}.mjs`)]);
  }
  await add("bun", bin("bun"), (program) => [bin("bun"), join(bench, `${program}.ts`)]);
  const denoFlags = [
    "run",
    "--allow-all",
    "--unstable-net",
    "--no-check",
    "--config",
    join(root, "deno.json"),
  ];
  await add("deno", bin("deno"), (program) => [
    bin("deno"),
    ...denoFlags,
    join(bench, `${program}.ts`),
  ]);
  if (list.some(({ name }) => name === "node")) await bundle(directory);
  return { list, missing };
}

/**
 * Returns the command that runs a TypeScript program with access to the garbage collector, which
 * Deno exposes only by a flag. On Node 20, tsx translates the program while it loads, before
 * anything is counted.
 */
export function commandFor({ name, command }: Runtime, program: string): readonly string[] {
  const [path = "", ...rest] = command("client");
  if (name === "node") return [path, "--import", "tsx", program];
  if (name === "bun") return [path, program];
  const [run = "", ...flags] = rest.slice(0, -1);
  return [path, run, "--v8-flags=--expose-gc", ...flags, program];
}

async function versionOf(name: RuntimeName, path: string): Promise<string> {
  if (path.startsWith(root) && !existsSync(path)) throw new Error("not installed");
  const { stdout } = await promisify(execFile)(path, ["--version"]);
  const version = /\d+\.\d+\.\d+/.exec(stdout)?.[0];
  if (version === undefined) throw new Error(`is no ${name}`);
  return version;
}

async function bundle(directory: string): Promise<void> {
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const build = await rolldown({
    input: { server: join(bench, "server.ts"), client: join(bench, "client.ts") },
    platform: "node",
    transform: { target: "node20" },
    // Helpers of the translation come with the bundler itself.
    external: (id) => /^[^./\0]/.test(id) && !id.startsWith("@oxc-project/runtime/"),
    logLevel: "silent",
  });
  // Packages resolve from inside node_modules. The "type" of this package does not apply there, so
  // the files end in .mjs.
  await build.write({
    dir: directory,
    format: "esm",
    entryFileNames: "[name].mjs",
    chunkFileNames: "[name]-[hash].mjs",
  });
  await build.close();
}

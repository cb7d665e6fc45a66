/** The runtimes of this machine, and how each runs a program of this folder. */
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

/** A runtime that is there. */
export interface Runtime {
  readonly name: RuntimeName;
  /** With its version, as rows name it: `node 20`, `bun 1.4`. */
  readonly title: string;
  readonly version: string;
  /** The words that run a program of this folder. */
  command(program: "server" | "client"): readonly string[];
}

/** The runtimes of this machine. */
export interface Runtimes {
  readonly list: readonly Runtime[];
  /** Why others are missing. */
  readonly missing: readonly string[];
}

/**
 * Finds Node on the PATH, Bun and Deno in `node_modules`, and further Nodes.
 *
 * Node 20 reads no TypeScript, and a loader that translates it would be measured along. So the programs are bundled for it, with
 * their packages left outside.
 *
 * @param nodes paths of further Node binaries
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
 * The words that run any TypeScript program, which may collect garbage when it wants to: Deno exposes its collector by a flag only.
 * Node 20 reads no TypeScript; tsx translates it while the program is loaded, which is before anything is counted.
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
  // Packages are found from inside node_modules; the "type" of this one is not, so the ending says what the files are.
  await build.write({
    dir: directory,
    format: "esm",
    entryFileNames: "[name].mjs",
    chunkFileNames: "[name]-[hash].mjs",
  });
  await build.close();
}

import { spawn } from "node:child_process";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { runtimeName } from "./fixtures.ts";

/** The root of this repository. */
export const root: string = fileURLToPath(new URL("../../", import.meta.url));

/** The words that run a TypeScript program on the runtime that runs this test. */
export const runner: readonly string[] = {
  bun: [process.execPath],
  // Node 20 does not read TypeScript, so tsx translates it.
  node: [process.execPath, "--import", "tsx"],
  deno: [process.execPath, "run", "--allow-all", "--no-check", "--config", `${root}deno.json`],
}[runtimeName];

/** How a program ended. */
export interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a program to its end, in the root of this repository. */
export function runToEnd(command: readonly string[]): Promise<Outcome> {
  const [program = "", ...args] = command;
  const child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk: Uint8Array) => {
    out += new TextDecoder().decode(chunk);
  });
  child.stderr.on("data", (chunk: Uint8Array) => {
    err += new TextDecoder().decode(chunk);
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, out, err }));
  });
}

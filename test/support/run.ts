/** Programs of this repository in processes of their own. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { runtimeName } from "./fixtures.ts";

/** The runtimes that run this library. */
export type RuntimeName = typeof runtimeName;

/** The root of this repository. */
export const root: string = fileURLToPath(new URL("../../", import.meta.url));

const flags: Record<RuntimeName, readonly string[]> = {
  bun: [],
  // Node 20 does not read TypeScript. `npm test` has bundled it all; by itself, a test has tsx translate it.
  node: process.env.VORTEX_PEER_NODE_RUNNER
    ? [process.env.VORTEX_PEER_NODE_RUNNER]
    : ["--import", "tsx"],
  // QUIC is behind --unstable-net.
  deno: ["run", "--allow-all", "--unstable-net", "--no-check", "--config", `${root}deno.json`],
};

/** The words that run a TypeScript program on the runtime that runs this test. */
export const runner: readonly string[] = [process.execPath, ...flags[runtimeName]];

/** The words that run a TypeScript program on each runtime, or why it cannot be had. */
export const runners: Readonly<Record<RuntimeName, readonly string[] | string>> = {
  node: runnerOf("node"),
  bun: runnerOf("bun"),
  deno: runnerOf("deno"),
};

/** How a program ended. */
export interface Outcome {
  /** Its exit code; null when a signal ended it. */
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** A program that runs. */
export interface Program {
  /** The next line that it prints. Rejects when it ends before. */
  line(): Promise<string>;
  /** Writes a line to its standard input. */
  send(line: string): void;
  /** Ends its standard input. */
  end(): void;
  /** Sends it a signal. Default `SIGKILL`. */
  kill(signal?: "SIGKILL" | "SIGSTOP" | "SIGTERM" | "SIGHUP"): void;
  /** Resolves when it has ended. */
  readonly ended: Promise<Outcome>;
}

/** Runs a program to its end, in the root of this repository. */
export function runToEnd(command: readonly string[]): Promise<Outcome> {
  return outcomeOf(spawnIn(command, "ignore"), () => {});
}

/** Starts a program, in the root of this repository. */
export function startProgram(command: readonly string[]): Program {
  const child = spawnIn(command, "pipe");
  const lines: string[] = [];
  let rest = "";
  let over = false;
  let wake: () => void = () => {};
  // Who writes to a program that has ended learns so from `ended`.
  child.stdin?.on("error", () => {});
  const ended = outcomeOf(child, (text) => {
    const whole = (rest + text).split("\n");
    rest = whole.pop() ?? "";
    lines.push(...whole);
    wake();
  });
  const note = (): void => {
    over = true;
    wake();
  };
  ended.then(note, note);
  return {
    async line() {
      for (;;) {
        const line = lines.shift();
        if (line !== undefined) return line;
        if (over) throw new Error(`ended before it printed a line: ${JSON.stringify(await ended)}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    send: (line) => child.stdin?.write(`${line}\n`),
    end: () => child.stdin?.end(),
    kill(signal = "SIGKILL") {
      // Not child.kill: Deno's does nothing the second time, and a program that was stopped is killed later.
      if (!over && child.pid !== undefined) process.kill(child.pid, signal);
    },
    ended,
  };
}

function runnerOf(name: RuntimeName): readonly string[] | string {
  if (name === runtimeName) return runner;
  if (name === "node") {
    return spawnSync("node", ["--version"]).status === 0
      ? ["node", ...flags.node]
      : "there is no node on the PATH";
  }
  const program = `${root}node_modules/.bin/${name}`;
  return existsSync(program) ? [program, ...flags[name]] : `there is no ${name} in node_modules`;
}

function spawnIn(
  [program = "", ...args]: readonly string[],
  stdin: "ignore" | "pipe",
): ChildProcess {
  return spawn(program, args, { cwd: root, stdio: [stdin, "pipe", "pipe"] });
}

function outcomeOf(child: ChildProcess, onText: (text: string) => void): Promise<Outcome> {
  const decoders = [new TextDecoder(), new TextDecoder()] as const;
  let out = "";
  let err = "";
  child.stdout?.on("data", (chunk: Uint8Array) => {
    const text = decoders[0].decode(chunk, { stream: true });
    out += text;
    onText(text);
  });
  child.stderr?.on("data", (chunk: Uint8Array) => {
    err += decoders[1].decode(chunk, { stream: true });
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, out, err }));
  });
}

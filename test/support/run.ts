/** Runs programs of this repository as child processes. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { runtimeName } from "./fixtures.ts";

/** JavaScript runtime that runs the tests. */
export type RuntimeName = typeof runtimeName;

/** Absolute path of the repository root, with a trailing slash. */
export const root: string = fileURLToPath(new URL("../../", import.meta.url));

const flags: Record<RuntimeName, readonly string[]> = {
  bun: [],
  // Node 20 cannot run TypeScript. `npm test` bundles the sources; a test run on its own uses tsx.
  node: process.env.VORTEX_PEER_NODE_RUNNER
    ? [process.env.VORTEX_PEER_NODE_RUNNER]
    : ["--import", "tsx"],
  // QUIC is behind --unstable-net.
  deno: ["run", "--allow-all", "--unstable-net", "--no-check", "--config", `${root}deno.json`],
};

/** Start of a command line that runs a TypeScript program on the current runtime. */
export const runner: readonly string[] = [process.execPath, ...flags[runtimeName]];

/**
 * Start of a command line that runs a TypeScript program, for each runtime. If a runtime is not
 * available, the reason instead.
 */
export const runners: Readonly<Record<RuntimeName, readonly string[] | string>> = {
  node: runnerOf("node"),
  bun: runnerOf("bun"),
  deno: runnerOf("deno"),
};

/** Exit code and output of a finished program. */
export interface Outcome {
  /** Exit code; null if a signal ended the program. */
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Running child process. */
export interface Program {
  /**
   * Resolves to the next line of the program's standard output. Rejects if the program ends first.
   */
  line(): Promise<string>;
  /** Writes a line to the program's standard input. */
  send(line: string): void;
  /** Closes the program's standard input. */
  end(): void;
  /** Sends a signal to the program. Default: `SIGKILL`. */
  kill(signal?: "SIGKILL" | "SIGSTOP" | "SIGTERM" | "SIGINT" | "SIGHUP"): void;
  /** Resolves to the exit code and output when the program has ended. */
  readonly ended: Promise<Outcome>;
}

/** Runs a program in the repository root. Resolves when the program has ended. */
export function runToEnd(command: readonly string[]): Promise<Outcome> {
  return outcomeOf(spawnIn(command, "ignore"), () => {});
}

/** Starts a program in the repository root, with pipes to its standard input and output. */
export function startProgram(command: readonly string[]): Program {
  const child = spawnIn(command, "pipe");
  const lines: string[] = [];
  let partialLine = "";
  let hasEnded = false;
  let wake: () => void = () => {};
  // A write after the program has ended is ignored: `ended` reports the end.
  child.stdin?.on("error", () => {});
  const ended = outcomeOf(child, (text) => {
    const whole = (partialLine + text).split("\n");
    partialLine = whole.pop() ?? "";
    lines.push(...whole);
    wake();
  });
  const onEnd = (): void => {
    hasEnded = true;
    wake();
  };
  ended.then(onEnd, onEnd);
  return {
    async line() {
      for (;;) {
        const line = lines.shift();
        if (line !== undefined) return line;
        if (hasEnded)
          throw new Error(`ended before it printed a line: ${JSON.stringify(await ended)}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    send: (line) => child.stdin?.write(`${line}\n`),
    end: () => child.stdin?.end(),
    kill(signal = "SIGKILL") {
      // Deno's child.kill ignores the second call, but a program may be stopped first and killed
      // later.
      if (!hasEnded && child.pid !== undefined) process.kill(child.pid, signal);
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

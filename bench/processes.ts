/** Measured processes, seen from the measuring one. */
import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Answer } from "./messages.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Milliseconds for a process to end after it was told to. */
const GRACE = 6000;
/** Characters of a process's error output that are kept. */
const KEPT = 2000;

/** A failure of what is measured, not of the measuring. */
export class Failure extends Error {
  /** Whether there is no such thing on this runtime or machine. */
  readonly missing: boolean;

  constructor(message: string, missing = false) {
    super(message);
    this.missing = missing;
  }
}

const running = new Set<ChildProcess>();
// Their standard inputs end with this process, and they with those; this is for the ones that hang.
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** A process that takes orders. */
export class Worker<Order> {
  readonly #child: ChildProcess;
  readonly #answers: ((line: string) => void)[] = [];
  readonly #ended: Promise<string>;
  #errors = "";

  constructor([program = "", ...args]: readonly string[], argument: object) {
    const child = spawn(program, [...args, JSON.stringify(argument)], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    running.add(child);
    this.#child = child;
    // Who writes to a process that has ended learns so from its end.
    child.stdin.on("error", () => {});
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#errors = (this.#errors + text).slice(-KEPT);
    });
    createInterface({ input: child.stdout }).on("line", (line) => this.#answers.shift()?.(line));
    this.#ended = new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("close", (code, signal) => {
        running.delete(child);
        resolve(`ended with ${signal ?? `exit code ${code}`}: ${lastLines(this.#errors)}`);
      });
    });
  }

  /**
   * Has an order carried out. Rejects with a {@link Failure} when it fails, or the process ends.
   * @param seconds the process is killed when there is no answer by then
   */
  async ask<T>(order: Order, seconds: number): Promise<T> {
    const answer = new Promise<string>((resolve) => this.#answers.push(resolve));
    const ended = this.#ended.then((how) => {
      throw new Failure(how);
    });
    this.#child.stdin?.write(`${JSON.stringify(order)}\n`);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () => reject(new Failure(`no answer within ${seconds} s`)),
        seconds * 1000,
      );
    });
    try {
      const parsed = JSON.parse(await Promise.race([answer, ended, late])) as Answer<T>;
      if ("failed" in parsed) throw new Failure(lastLines(parsed.failed), parsed.missing);
      return parsed.ok;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Tells the process to end, and kills it when it does not. */
  async end(): Promise<void> {
    this.#child.stdin?.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), GRACE);
    await this.#ended;
    clearTimeout(timer);
  }

  /** Ends the process at once. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}

function lastLines(text: string): string {
  // Failures are written to results, where the paths of this machine are of no use.
  return text.replaceAll(root, "").trim().split("\n").slice(-3).join(" | ");
}

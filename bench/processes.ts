/** Worker processes, as seen from the measuring process. */
import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Answer } from "./messages.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Time for a process to end after its input is closed, in ms. */
const GRACE_MS = 6000;
/** Maximum number of characters kept of a process's error output. */
const MAX_ERROR_CHARACTERS = 2000;

/** Failure of the measured subject, not of the measurement. */
export class Failure extends Error {
  /** True if this runtime or machine does not support the subject. */
  readonly missing: boolean;

  constructor(message: string, missing = false) {
    super(message);
    this.missing = missing;
  }
}

const running = new Set<ChildProcess>();
// Worker processes end with their standard input, and so with this process. This is for the ones
// that hang.
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** Worker process that carries out orders. */
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
    // A write to an ended process is reported by its end instead.
    child.stdin.on("error", () => {});
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#errors = (this.#errors + text).slice(-MAX_ERROR_CHARACTERS);
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
   * Sends an order and resolves to its answer. Rejects with a {@link Failure} when the order fails,
   * the process ends, or the time is over.
   *
   * @param seconds timeout for the answer
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

  /** Closes the input of the process, and kills it if it does not end. */
  async end(): Promise<void> {
    this.#child.stdin?.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), GRACE_MS);
    await this.#ended;
    clearTimeout(timer);
  }

  /** Kills the process. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}

function lastLines(text: string): string {
  // Failures are written to the results, which must not contain paths of this machine.
  return text.replaceAll(root, "").trim().split("\n").slice(-3).join(" | ");
}

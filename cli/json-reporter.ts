import type { ProtocolEvent } from "../src/client/auto/downloader.ts";
import { VortexError } from "../src/errors.ts";
import type { TaskEvent, TaskProgress, TaskReport } from "../src/task/task.ts";
import { inFlags } from "./flag-words.ts";
import type { Reporter } from "./reporter.ts";
import { jsonLine, type TextOutput, writeLine } from "./terminal.ts";

/** Milliseconds between two objects on progress. */
const INTERVAL = 1000;

/** The objects that are printed, for `--help`. */
export const jsonHelp: string = [
  "--json prints one object a line, each with its type:",
  "  started            totalBytes, totalPieces, resumedPieces (of an earlier run)",
  "  progress           once a second: bytes, totalBytes, pieces, totalPieces, resumedBytes, rate, timeLeft, patienceLeft,",
  "                     parents",
  "  piece              with --verbose: number, bytes, parent",
  "  piece-failed       number, parent, error; protocol, where there are several",
  "  piece-damaged      number, of a piece of an earlier run",
  "  race               number, parent: a second parent is asked for a slow piece",
  "  protocol           addr, protocol, reason: what auto and hybrid choose for a peer",
  "  protocol-left-out  parent, protocol, reasons: others remain",
  "  parent-left-out    parent, reasons: it is asked now and then, unless it sent wrong bytes",
  "  parent-back        parent, protocol, where there are several: it delivers again",
  "  started-over       parents, error: pieces are fetched again from these parents",
  "  done               the last one: bytes, pieces, resumedBytes, resumedPieces, verified, duration, parents",
  "  failed             or this one, also for a wrong option: code, kind, message, addr, exitCode",
  "Sizes are in bytes, times in milliseconds, rates in bytes a second. A parent has parent, state (active, waiting, left-out), rate,",
  "bytes, pieces, errors and reasons; an error has code, kind, message and addr; verified has level (whole, pieces, none), and for",
  "whole also digest and by (caller, parents). More types and fields may come. The objects go to standard output when the content",
  "goes to a file, else to standard error.",
].join("\n");

/** Reports in JSON, one object a line. */
export class JsonReporter implements Reporter {
  readonly interval: number = INTERVAL;
  readonly #output: TextOutput;
  readonly #verbose: boolean;
  readonly #onFailure: (error: unknown) => void;

  /** @param onFailure called with `StorageFailed` when an object cannot be written */
  constructor(output: TextOutput, verbose: boolean, onFailure: (error: unknown) => void) {
    this.#output = output;
    this.#verbose = verbose;
    this.#onFailure = onFailure;
  }

  progress(progress: TaskProgress): void {
    this.#write({ type: "progress", ...progress });
  }

  event(event: TaskEvent): void {
    if (event.type !== "piece" || this.#verbose) this.#write(event);
  }

  protocol(event: ProtocolEvent): void {
    this.#write({ type: "protocol", ...event });
  }

  async done(report: TaskReport): Promise<void> {
    await writeLine(this.#output, jsonLine({ type: "done", ...report }, withErrors));
  }

  failed(): void {}

  #write(value: object): void {
    writeLine(this.#output, jsonLine(value, withErrors)).catch(this.#onFailure);
  }
}

/** The object that a failed command ends with. */
export function failedLine(error: VortexError, exitCode: number): string {
  return jsonLine({ type: "failed", ...describe(error), exitCode });
}

function withErrors(key: string, value: unknown): unknown {
  if (key === "reason" && typeof value === "string") return inFlags(value);
  return value instanceof VortexError ? describe(value) : value;
}

function describe({ code, kind, message, addr }: VortexError): object {
  return { code, kind, message: inFlags(message), addr };
}

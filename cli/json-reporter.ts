import type { ProtocolEvent } from "../src/client/auto/downloader.ts";
import type { VortexError } from "../src/errors.ts";
import type { TaskEvent, TaskProgress, TaskReport } from "../src/task/task.ts";
import { inFlags } from "./flag-words.ts";
import type { Reporter } from "./reporter.ts";
import { jsonLine, type TextOutput, writeLine } from "./terminal.ts";

/** Interval between `progress` objects, in ms. */
const PROGRESS_INTERVAL_MS = 1000;

/** Description of the JSON objects, for `--help`. */
export const jsonHelp: string = [
  "--json prints one object per line. Types and fields:",
  "  started            totalBytes, totalPieces, resumedPieces (from an earlier run)",
  "  progress           every second: bytes, totalBytes, pieces, totalPieces, resumedBytes, rate,",
  "                     timeLeft, patienceLeft, parents",
  "  piece              with --verbose: number, bytes, parent",
  "  piece-failed       number, parent, error, protocol (if the parent has several)",
  "  piece-damaged      number: this piece from an earlier run is fetched again",
  "  hedged             number, parent: slow piece, also requested from this parent",
  "  protocol           addr, protocol, reason: choice of auto or hybrid for a peer",
  "  protocol-excluded  parent, protocol, reasons: the parent's other protocols remain in use",
  "  parent-excluded    parent, reasons: retried from time to time, unless it sent wrong bytes",
  "  parent-restored    parent, protocol (if it has several): delivers pieces again",
  "  warning            message",
  "  restarted          parents, error: pieces from these parents are fetched again",
  "  done               last line on success: bytes, pieces, resumedBytes, resumedPieces, verified,",
  "                     duration, parents",
  "  failed             last line on failure, also for an invalid option: the fields of an error,",
  "                     exitCode",
  "Sizes are in bytes, times in ms, rates in bytes/s. A parent has parent, state (active, waiting,",
  "excluded), rate, bytes, pieces, errors and reasons. An error has name, code, kind, message, addr",
  "and cause.",
  "verified has level (whole, pieces, none), and for whole also digest and by (caller, parents).",
  "Later versions may add types and fields. Objects go to standard output if the content goes to a",
  "file, else to standard error.",
].join("\n");

/** Reporter that writes events as JSON, one object per line. */
export class JsonReporter implements Reporter {
  readonly interval: number = PROGRESS_INTERVAL_MS;
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

  warning(line: string): void {
    this.#write({ type: "warning", message: line.replace(/^vortex-peer: /, "") });
  }

  async done(report: TaskReport): Promise<void> {
    await writeLine(this.#output, jsonLine({ type: "done", ...report }, withFlags));
  }

  failed(): void {}

  #write(value: object): void {
    writeLine(this.#output, jsonLine(value, withFlags)).catch(this.#onFailure);
  }
}

/** Formats the `failed` object, which a failed command prints last. */
export function failedLine(error: VortexError, exitCode: number): string {
  return jsonLine({ type: "failed", ...error.toJSON(), exitCode }, withFlags);
}

/** Replaces names of library options by flags, in the messages of errors and in reasons. */
function withFlags(key: string, value: unknown): unknown {
  return (key === "reason" || key === "message") && typeof value === "string"
    ? inFlags(value)
    : value;
}

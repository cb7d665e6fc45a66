import type { ProtocolEvent } from "../src/client/auto/downloader.ts";
import { oneLine } from "../src/errors.ts";
import type { TaskEvent, TaskProgress, TaskReport } from "../src/task/task.ts";
import type { Protocol } from "../src/transport/protocol.ts";
import { inFlags } from "./flag-words.ts";
import { failureText, progressBar, progressText, summaryText } from "./progress.ts";
import type { Reporter } from "./reporter.ts";
import { StatusLine } from "./status-line.ts";
import type { TextOutput } from "./terminal.ts";

/** Milliseconds between two looks of the bar. */
const BAR_INTERVAL = 200;
/** Milliseconds between two lines on progress where there is no terminal. */
const LINE_INTERVAL = 5000;

/** How much is told in words. */
export interface TextReporterOptions {
  /** Nothing but why the command failed. */
  readonly quiet: boolean;
  /** Also what happens on the way. */
  readonly verbose: boolean;
}

/** Tells in words on standard error: a bar on a terminal, a line now and then elsewhere, and a summary. */
export class TextReporter implements Reporter {
  readonly interval: number | undefined;
  readonly #output: TextOutput;
  readonly #options: TextReporterOptions;
  readonly #status: StatusLine | undefined;
  #last: TaskProgress | undefined;

  constructor(output: TextOutput, options: TextReporterOptions) {
    this.#output = output;
    this.#options = options;
    this.#status = output.isTTY && !options.quiet ? new StatusLine(output) : undefined;
    if (!options.quiet) this.interval = output.isTTY ? BAR_INTERVAL : LINE_INTERVAL;
  }

  progress(progress: TaskProgress): void {
    this.#last = progress;
    if (this.#status === undefined) this.#write(progressText(progress));
    else this.#status.show((columns) => progressBar(progress, columns));
  }

  event(event: TaskEvent): void {
    const text = this.#options.verbose ? eventText(event) : undefined;
    if (event.type === "started" && event.resumedPieces > 0 && !this.#options.quiet) {
      this.#write(
        `found ${event.resumedPieces} of ${event.totalPieces} pieces of an earlier run; they are checked`,
      );
    }
    if (text !== undefined) this.#write(text);
  }

  protocol({ addr, protocol, reason }: ProtocolEvent): void {
    if (this.#options.verbose)
      this.#write(`${addr} is asked over ${protocol}: ${oneLine(inFlags(reason))}`);
  }

  async done(report: TaskReport): Promise<void> {
    this.#last = undefined;
    if (!this.#options.quiet) this.#write(summaryText(report));
  }

  failed(): void {
    this.#status?.clear();
  }

  /** A line above the bar. */
  #write(line: string): void {
    this.#status?.clear();
    this.#output.write(`${line}\n`);
    const progress = this.#last;
    if (progress !== undefined) this.#status?.show((columns) => progressBar(progress, columns));
  }
}

/** What happened, for whoever wants to know; undefined for what happens all the time. */
function eventText(event: TaskEvent): string | undefined {
  switch (event.type) {
    case "started":
      return `${event.totalBytes} bytes in ${event.totalPieces} pieces are wanted`;
    case "piece":
      return undefined;
    case "piece-damaged":
      return `piece ${event.number} of an earlier run is damaged, and is fetched again`;
    case "race":
      return `piece ${event.number} is slow, and is asked from ${event.parent} too`;
    case "piece-failed":
      return `piece ${event.number} failed at ${overOf(event)}: ${failureText(event.error)}`;
    case "protocol-left-out":
      return `${overOf(event)} is left out: ${event.reasons.map(failureText).join("; ")}`;
    case "started-over":
      return `pieces are fetched again from ${event.parents.join(", ")}: ${failureText(event.error)}`;
    case "parent-left-out":
      return `${event.parent} is left out: ${event.reasons.map(failureText).join("; ")}`;
    case "parent-back":
      return `${overOf(event)} delivers again`;
  }
}

/** A parent, and over which protocol it was asked where there are several. */
function overOf({
  parent,
  protocol,
}: {
  readonly parent: string;
  readonly protocol?: Protocol;
}): string {
  return protocol === undefined ? parent : `${parent} over ${protocol}`;
}

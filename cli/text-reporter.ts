import type { ProtocolEvent } from "../src/client/auto/downloader.ts";
import { oneLine } from "../src/errors.ts";
import type { TaskEvent, TaskProgress, TaskReport } from "../src/task/task.ts";
import type { Protocol } from "../src/transport/protocol.ts";
import { inFlags } from "./flag-words.ts";
import { failureText, progressBar, progressText, reasonsText, summaryText } from "./progress.ts";
import type { Reporter } from "./reporter.ts";
import { StatusLine } from "./status-line.ts";
import type { TextOutput } from "./terminal.ts";

/** Interval between updates of the progress bar, in ms. */
const BAR_INTERVAL_MS = 200;
/** Interval between progress lines without a terminal, in ms. */
const LINE_INTERVAL_MS = 5000;

/** Verbosity of a {@link TextReporter}. */
export interface TextReporterOptions {
  /** Prints nothing but the final error. */
  readonly quiet: boolean;
  /** Also prints events of peers and pieces. */
  readonly verbose: boolean;
}

/**
 * Reporter that writes text to standard error: a progress bar on a terminal, periodic progress
 * lines elsewhere, and a summary.
 */
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
    if (!options.quiet) this.interval = output.isTTY ? BAR_INTERVAL_MS : LINE_INTERVAL_MS;
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
        `found ${event.resumedPieces} of ${event.totalPieces} pieces from an earlier run, checking them`,
      );
    }
    if (text !== undefined) this.#write(text);
  }

  protocol({ addr, protocol, reason }: ProtocolEvent): void {
    if (this.#options.verbose)
      this.#write(`using ${protocol} for ${addr}: ${oneLine(inFlags(reason))}`);
  }

  warning(line: string): void {
    this.#write(oneLine(line));
  }

  async done(report: TaskReport): Promise<void> {
    this.#last = undefined;
    if (!this.#options.quiet) this.#write(summaryText(report));
  }

  failed(): void {
    this.#status?.clear();
  }

  /** Writes a line above the progress bar. */
  #write(line: string): void {
    this.#status?.clear();
    this.#output.write(`${line}\n`);
    const progress = this.#last;
    if (progress !== undefined) this.#status?.show((columns) => progressBar(progress, columns));
  }
}

/** Formats an event for `--verbose`. Undefined for completed pieces, which the progress covers. */
function eventText(event: TaskEvent): string | undefined {
  switch (event.type) {
    case "started":
      return `fetching ${event.totalBytes} bytes in ${event.totalPieces} pieces`;
    case "piece":
      return undefined;
    case "piece-damaged":
      return `piece ${event.number} from an earlier run is damaged, fetching it again`;
    case "hedged":
      return `piece ${event.number} is slow, also requesting it from ${event.parent}`;
    case "piece-failed":
      return `piece ${event.number} from ${sourceText(event)} failed: ${failureText(event.error, event.parent)}`;
    case "protocol-excluded":
      return `excluding ${sourceText(event)}: ${reasonsText(event.reasons, event.parent)}`;
    case "restarted":
      return `fetching pieces of ${event.parents.join(", ")} again: ${failureText(event.error)}`;
    case "parent-excluded":
      return `excluding ${event.parent}: ${reasonsText(event.reasons, event.parent)}`;
    case "parent-restored":
      return `${sourceText(event)} is back`;
  }
}

/** Formats a parent, with the protocol if the parent has several: `10.0.0.7:4005 over tcp`. */
function sourceText({
  parent,
  protocol,
}: {
  readonly parent: string;
  readonly protocol?: Protocol;
}): string {
  return protocol === undefined ? parent : `${parent} over ${protocol}`;
}

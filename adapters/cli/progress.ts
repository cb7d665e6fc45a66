import type { TextOutput } from "./terminal.ts";

/** Milliseconds between two looks of the line. */
const INTERVAL = 100;

/** One line on a terminal that overwrites itself: percent, bytes, MB/s. Nothing where there is no terminal. */
export class ProgressLine {
  readonly #output: TextOutput | undefined;
  readonly #label: string;
  readonly #startedAt: number = performance.now();
  #shownAt = Number.NEGATIVE_INFINITY;

  constructor(output: TextOutput, label: string, quiet = false) {
    this.#output = output.isTTY && !quiet ? output : undefined;
    this.#label = label;
  }

  update(bytes: number, total: number): void {
    const now = performance.now();
    if (this.#output === undefined || now - this.#shownAt < INTERVAL) return;
    this.#shownAt = now;
    const percent = total === 0 ? 100 : Math.floor((bytes / total) * 100);
    const line = `${this.#label} ${percent}%  ${megabytes(bytes)} of ${megabytes(total)} MB  ${this.#rate(bytes)}`;
    // Cut to the terminal's width, since a line that wraps cannot be overwritten.
    this.#output.write(`\r${line.slice(0, (this.#output.columns || 80) - 1)}\x1b[K`);
  }

  /** Leaves `line` in the place of the progress, or nothing. */
  end(line?: string): void {
    this.#output?.write(`\r\x1b[K${line === undefined ? "" : `${line}\n`}`);
  }

  /** What has been done so far, for a closing line. */
  summary(bytes: number): string {
    const seconds = (performance.now() - this.#startedAt) / 1000;
    return `${megabytes(bytes)} MB in ${seconds.toFixed(1)} s, ${this.#rate(bytes)}`;
  }

  #rate(bytes: number): string {
    const seconds = Math.max(0.001, (performance.now() - this.#startedAt) / 1000);
    return `${(bytes / 1e6 / seconds).toFixed(1)} MB/s`;
  }
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

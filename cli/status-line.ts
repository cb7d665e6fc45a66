import type { TextOutput } from "./terminal.ts";

/** The last line of a terminal, overwritten again and again. Nothing where there is no terminal. */
export class StatusLine {
  readonly #output: TextOutput | undefined;

  constructor(output: TextOutput) {
    this.#output = output.isTTY ? output : undefined;
  }

  /** Overwrites the line with what `text` says in so many columns: a line that wraps could not be overwritten. */
  show(text: (columns: number) => string): void {
    this.#output?.write(`\r${text((this.#output.columns || 80) - 1)}\x1b[K`);
  }

  /** Leaves the line empty, for something else to be written there. */
  clear(): void {
    this.#output?.write("\r\x1b[K");
  }
}

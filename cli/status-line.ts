import type { TextOutput } from "./terminal.ts";

/**
 * Status line at the bottom of a terminal, overwritten by each update. Inactive without a terminal.
 */
export class StatusLine {
  readonly #output: TextOutput | undefined;

  constructor(output: TextOutput) {
    this.#output = output.isTTY ? output : undefined;
  }

  /**
   * Overwrites the line with the result of `text`, which receives the available columns. A longer
   * text would wrap and could not be overwritten.
   */
  show(text: (columns: number) => string): void {
    this.#output?.write(`\r${text((this.#output.columns || 80) - 1)}\x1b[K`);
  }

  /** Clears the line, so that other output can be written there. */
  clear(): void {
    this.#output?.write("\r\x1b[K");
  }
}

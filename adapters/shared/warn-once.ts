const printed = new Set<string>();

/** Prints a line with `console.warn`, unless this process has already printed the same line. */
export function warnOnce(line: string): void {
  if (printed.has(line)) return;
  printed.add(line);
  console.warn(line);
}

const printed = new Set<string>();

/** Prints a line with `console.warn`, at most once per process. */
export function warnOnce(line: string): void {
  if (printed.has(line)) return;
  printed.add(line);
  console.warn(line);
}

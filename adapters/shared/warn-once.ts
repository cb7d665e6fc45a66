const printed = new Set<string>();

/** Prints a line as a warning, once a process. */
export function warnOnce(line: string): void {
  if (printed.has(line)) return;
  printed.add(line);
  console.warn(line);
}

/**
 * Units of sizes in stock Dragonfly, in bytes, by lower-case name; input is case-insensitive.
 * Source: the bytesize crate, `parse.rs`.
 */
const units: Record<string, number> = {
  "": 1,
  b: 1,
  ...prefixed("k", 1),
  ...prefixed("m", 2),
  ...prefixed("g", 3),
  ...prefixed("t", 4),
  ...prefixed("p", 5),
};

/** Units that {@link formatSize} uses, the largest first. */
const outputUnits: readonly string[] = [
  "PiB",
  "PB",
  "TiB",
  "TB",
  "GiB",
  "GB",
  "MiB",
  "MB",
  "KiB",
  "kB",
];

/**
 * Parses a size: a number, with an optional unit in powers of 1000 (`50GB`, `50G`) or of 1024
 * (`50GiB`, `50Gi`). Returns bytes, or undefined for any other text and above 2^53 - 1.
 */
export function parseSize(text: string): number | undefined {
  const [, amount, unit = ""] = /^([0-9]{1,16}(?:\.[0-9]+)?) ?([A-Za-z]*)$/.exec(text) ?? [];
  const name = unit.toLowerCase();
  if (amount === undefined || !Object.hasOwn(units, name)) return undefined;
  const bytes = Math.round(Number(amount) * (units[name] ?? 0));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Formats bytes for {@link parseSize}, in the largest unit that gives a whole number. */
export function formatSize(bytes: number): string {
  for (const unit of outputUnits) {
    const size = units[unit.toLowerCase()] ?? 0;
    if (bytes > 0 && bytes % size === 0) return `${bytes / size}${unit}`;
  }
  return String(bytes);
}

function prefixed(prefix: string, power: number): Record<string, number> {
  const [decimal, binary] = [1000 ** power, 1024 ** power];
  return {
    [prefix]: decimal,
    [`${prefix}b`]: decimal,
    [`${prefix}i`]: binary,
    [`${prefix}ib`]: binary,
  };
}

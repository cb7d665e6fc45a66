/** Bytes in each unit that stock Dragonfly reads, small letters or capitals. Source: the bytesize crate, `parse.rs`. */
const units: Record<string, number> = {
  "": 1,
  b: 1,
  ...prefixed("k", 1),
  ...prefixed("m", 2),
  ...prefixed("g", 3),
  ...prefixed("t", 4),
  ...prefixed("p", 5),
};

/** Units to write sizes in, the longest first. */
const written: readonly string[] = [
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
 * Bytes in a size as people write it: a number, alone or with a unit of powers of 1000 (`50GB`, `50G`) or of 1024 (`50GiB`,
 * `50Gi`). Undefined for anything else, and beyond 2^53 - 1.
 */
export function parseSize(text: string): number | undefined {
  const [, amount, unit = ""] = /^([0-9]{1,16}(?:\.[0-9]+)?) ?([A-Za-z]*)$/.exec(text) ?? [];
  const name = unit.toLowerCase();
  if (amount === undefined || !Object.hasOwn(units, name)) return undefined;
  const bytes = Math.round(Number(amount) * (units[name] ?? 0));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** A size as {@link parseSize} reads it: in the longest unit of which it is a whole number. */
export function formatSize(bytes: number): string {
  for (const unit of written) {
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

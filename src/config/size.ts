/**
 * Number of bytes in each unit that stock Dragonfly accepts in sizes, by the lower-case name of the
 * unit. Source: `parse.rs` of the Rust crate bytesize.
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

/** Units in which {@link formatSize} may write a size, the largest unit first. */
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
 * Parses a size and returns it in bytes, like dfdaemon. A size is a number with a unit, in powers
 * of 1000 (`50GB`, `50G`) or of 1024 (`50GiB`, `50Gi`), or an integer without a unit. Units are
 * case-insensitive. Fractions of a byte are dropped. Returns undefined for any other text, and for
 * sizes over 2^53 - 1 bytes.
 */
export function parseSize(text: string): number | undefined {
  const pattern = /^([0-9]{1,16}(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]+)$|^([0-9]{1,16})$/;
  const [, amount, unit = "", integer] = pattern.exec(text) ?? [];
  const name = unit.toLowerCase();
  if (!Object.hasOwn(units, name)) return undefined;
  const bytes = Math.trunc(Number(amount ?? integer) * (units[name] ?? 0));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/**
 * Parses a rate and returns it in bytes/s. A rate is a size with a unit, such as `50MB`, see
 * {@link parseSize}. Returns undefined for any other text, and for rates below 1 byte/s. A number
 * without a unit could mean bytes or megabytes.
 */
export function parseRate(text: string): number | undefined {
  const bytes = /[A-Za-z]$/.test(text) ? parseSize(text) : undefined;
  return bytes === 0 ? undefined : bytes;
}

/**
 * Formats what a command-line option accepts as a rate in place of `text`, for an error message. If
 * only the unit is missing, the examples have the number in `text`.
 */
export function expectedRate(text: string): string {
  const amount = /^[1-9][0-9]{0,14}$/.test(text) ? Number(text) : 50;
  const examples =
    amount < 1000
      ? ["MB", "MiB", "B"].map((unit) => `${amount}${unit}/s`)
      : [`${formatSize(amount)}/s`];
  const list = examples.join(", ").replace(/, (\S+)$/, " or $1");
  return `expected a rate with its unit, such as ${list}`;
}

/**
 * Formats a number of bytes as text that {@link parseSize} accepts. Uses the largest unit in which
 * the size is a whole number, at least `B`.
 */
export function formatSize(bytes: number): string {
  for (const unit of outputUnits) {
    const size = units[unit.toLowerCase()] ?? 0;
    if (bytes > 0 && bytes % size === 0) return `${bytes / size}${unit}`;
  }
  return `${bytes}B`;
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

/** Formats sizes, rates, times and percentages for people. */

/** Formats bytes with units of powers of 1000, such as `268.4 MB`. */
export function formatBytes(bytes: number): string {
  const unit = unitOf(bytes);
  return `${inUnit(bytes, unit)} ${unit.name}`;
}

/** Formats `bytes` of `total` in the unit of the total, such as `12.0 of 268.4 MB`. */
export function formatShare(bytes: number, total: number): string {
  const unit = unitOf(total);
  return `${inUnit(bytes, unit)} of ${inUnit(total, unit)} ${unit.name}`;
}

/** Formats a rate in bytes/s, such as `51.6 MB/s`. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(Math.round(bytesPerSecond))}/s`;
}

/** Formats milliseconds as `0:35`, `1:02:03` or `3d 4h`. */
export function formatTime(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1000);
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  const two = (count: number): string => String(count % 60).padStart(2, "0");
  if (hours >= 24) return `${Math.floor(hours / 24)}d ${hours % 24}h`;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
}

/**
 * Returns the whole percentage, rounded down, so that 100 means complete. An empty total is 100.
 */
export function percentOf(part: number, total: number): number {
  return total === 0 ? 100 : Math.floor((part / total) * 100);
}

interface Unit {
  readonly name: string;
  readonly bytes: number;
}

const bytesUnit: Unit = { name: "B", bytes: 1 };
const units: readonly Unit[] = [
  { name: "TB", bytes: 1e12 },
  { name: "GB", bytes: 1e9 },
  { name: "MB", bytes: 1e6 },
  { name: "kB", bytes: 1e3 },
];

function unitOf(bytes: number): Unit {
  return units.find((unit) => bytes >= unit.bytes) ?? bytesUnit;
}

function inUnit(bytes: number, unit: Unit): string {
  return unit === bytesUnit ? String(bytes) : (bytes / unit.bytes).toFixed(1);
}

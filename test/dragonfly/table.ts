/** Table of a lab run's measurements, in Markdown. */
import type { Measurement } from "./measurements.ts";

const runtimes = ["node", "bun", "deno"] as const;

/**
 * Returns a row for each version, direction, protocol and length, with the throughput of each
 * runtime in MB/s. The last of several measurements counts. `–` marks what was not measured.
 */
export function tableOf(measurements: readonly Measurement[]): string {
  const rows = new Map<string, Map<Measurement["runtime"], string>>();
  for (const { version, direction, protocol, pieces, length, duration, runtime } of [
    ...measurements,
  ].sort(byVersion)) {
    const key = [version, direction, protocol, lengthText(length), pieces].join(" | ");
    const cells = rows.get(key) ?? new Map();
    rows.set(key, cells.set(runtime, (length / 1000 / duration).toFixed(0)));
  }
  return [
    "| dfdaemon | direction | protocol | content | pieces | Node, MB/s | Bun, MB/s | Deno, MB/s |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ...[...rows].map(
      ([key, cells]) =>
        `| ${key} | ${runtimes.map((name) => cells.get(name) ?? "–").join(" | ")} |`,
    ),
  ].join("\n");
}

function byVersion(a: Measurement, b: Measurement): number {
  return (
    b.version.localeCompare(a.version, "en", { numeric: true }) ||
    a.direction.localeCompare(b.direction) ||
    a.length - b.length ||
    a.protocol.localeCompare(b.protocol)
  );
}

function lengthText(length: number): string {
  return length % 1024 ** 3 === 0 ? `${length / 1024 ** 3} GiB` : `${length / 1e6} MB`;
}

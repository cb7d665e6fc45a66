/** Results as Markdown tables. */
import type { FirstByteRow } from "./first-byte.ts";
import type { LongRow } from "./long/long.ts";
import type { Results } from "./results.ts";
import type { MeasuredRow } from "./rows.ts";
import type { Summary } from "./statistics.ts";
import type { Target } from "./targets.ts";

/** Returns all tables of a run. */
export function tablesOf({ rows, firstBytes, long, targets, machine, amount }: Results): string {
  const parts = [
    `${machine.cores} × ${machine.cpu}, ${machine.system}. ${roundsOf(amount)}`,
    ...[...new Set(rows.map(({ workload }) => workload))].map((workload) =>
      throughputTable(
        workload,
        rows.filter((row) => row.workload === workload),
      ),
    ),
    firstBytes.length > 0 ? firstByteTable(firstBytes) : "",
    long === undefined ? "" : longTable(long),
    targets.length > 0 ? targetTable(targets) : "",
    missingList([...rows, ...firstBytes, ...(long ?? [])]),
  ];
  return parts.filter((part) => part !== "").join("\n\n");
}

function roundsOf({ rounds, turns }: Results["amount"]): string {
  const runs = rounds * turns;
  return runs === 1 ? "One run each." : `Medians of ${runs} alternating runs (least to most).`;
}

function throughputTable(workload: string, rows: readonly MeasuredRow[]): string {
  return table(
    [
      `${workload}`,
      "",
      "MB/s",
      "requests/s",
      "p50 ms",
      "p99 ms",
      "CPU s/GB, server",
      "client",
      "peak MiB, server",
      "client",
    ],
    rows.flatMap(({ runtime, title, summary }) => {
      if (summary === undefined) return [];
      const {
        rate,
        requestsPerSecond,
        p50,
        p99,
        serverCpu,
        clientCpu,
        serverMemory,
        clientMemory,
      } = summary;
      return [
        [
          runtime,
          title,
          spread(rate),
          requestsPerSecond.median.toFixed(0),
          p50.median.toFixed(2),
          p99.median.toFixed(2),
          serverCpu.median.toFixed(2),
          clientCpu.median.toFixed(2),
          (serverMemory.median / 2 ** 20).toFixed(0),
          (clientMemory.median / 2 ** 20).toFixed(0),
        ],
      ];
    }),
  );
}

function firstByteTable(rows: readonly FirstByteRow[]): string {
  const kinds = { cold: "cold", resumed: "resumed", early: "0-RTT" } as const;
  return table(
    ["dial to first byte", "", "", "round trip ms", "ms", "round trips"],
    rows.flatMap(({ runtime, title, how, roundTrip, summary }) =>
      summary === undefined
        ? []
        : [
            [
              runtime,
              title,
              kinds[how],
              String(roundTrip),
              spread(summary),
              roundTrip === 0 ? "" : (summary.median / roundTrip).toFixed(1),
            ],
          ],
    ),
  );
}

function longTable(rows: readonly LongRow[]): string {
  const losses = [...new Set(rows.map(({ loss }) => loss))];
  const names = [...new Set(rows.map(({ runtime, title }) => `${runtime}|${title}`))];
  return table(
    ["50 ms round trip, 200 Mbit/s, MB/s", "", ...losses.map((loss) => `${100 * loss} % loss`)],
    names.map((name) => [
      ...name.split("|"),
      ...losses.map((loss) => {
        const row = rows.find(
          (each) => `${each.runtime}|${each.title}` === name && each.loss === loss,
        );
        return row?.summary === undefined ? "" : spread(row.summary);
      }),
    ]),
  );
}

function targetTable(targets: readonly Target[]): string {
  return table(
    ["target", "", "", "reached", "wanted", ""],
    targets.map(({ name, runtime, detail, value, least, most, met }) => [
      name,
      runtime,
      detail,
      value.toFixed(2),
      least === undefined ? `≤ ${most}` : `≥ ${least}`,
      met ? "met" : "**missed**",
    ]),
  );
}

function missingList(
  rows: readonly { readonly name: string; readonly failure?: string; readonly missing?: boolean }[],
): string {
  return rows
    .filter(({ failure }) => failure !== undefined)
    .map(
      ({ name, failure, missing }) => `- ${name} ${missing ? "is missing" : "failed"}: ${failure}`,
    )
    .join("\n");
}

function spread({ median, least, most }: Summary): string {
  const text = (value: number): string => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
  return least === most ? text(median) : `${text(median)} (${text(least)} to ${text(most)})`;
}

/** Returns a Markdown table. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => "---"), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n");
}

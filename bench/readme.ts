/** README's benchmark section: the command, the plot and the main figures of each table. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { FirstByteRow } from "./first-byte.ts";
import type { LongRow } from "./long/long.ts";
import type { Results } from "./results.ts";
import type { Figure, MeasuredRow } from "./rows.ts";
import { table } from "./tables.ts";
import { bulk, bulkParallel, small, type Workload } from "./workloads.ts";

const README = fileURLToPath(new URL("../README.md", import.meta.url));
const [START, END] = [
  "<!-- written by npm run bench -->",
  "<!-- end of what npm run bench writes -->",
];
/** Round-trip time of the link that the first-byte table shows, in ms. */
const ROUND_TRIP_MS = 50;

/** Replaces the benchmark section of README by one made of the files in `results`. */
export function writeReadme(): void {
  writeFileSync(README, withResults(readFileSync(README, "utf8")));
}

/**
 * Returns README's text with its benchmark section made of the files in `results`.
 *
 * @throws `Error` if `readme` lacks the markers of the section
 */
export function withResults(readme: string): string {
  const results = read("latest.json");
  const long = existsSync(new URL("results/long.json", import.meta.url))
    ? read("long.json")
    : undefined;
  const [from, to] = [readme.indexOf(START), readme.indexOf(END)];
  if (from < 0 || to < from)
    throw new Error(`README.md: expected the markers ${START} and ${END}, in this order`);
  const parts = [
    START,
    introductionOf(results),
    PLOT,
    throughputTable(results.rows),
    firstByteTable(results.firstBytes),
    ...(long === undefined ? [] : [longIntroduction(long), longTable(long.long ?? [])]),
  ];
  return `${readme.slice(0, from)}${parts.join("\n\n")}\n\n${readme.slice(to)}`;
}

function read(name: string): Results {
  return JSON.parse(readFileSync(new URL(`results/${name}`, import.meta.url), "utf8")) as Results;
}

const PLOT =
  "![MB/s and requests per second of each protocol on each runtime](bench/results/latest.svg)";

function introductionOf({ command, machine, amount }: Results): string {
  return [
    `\`${command}\` on ${machine.cores} × ${machine.cpu}.`,
    `Both ends run on one host, with random and verified content. Medians of ${amount.rounds * amount.turns} alternating runs.`,
    "[All results](bench/results/latest.json), including the bare loops without this library:",
  ].join("\n");
}

function throughputTable(rows: readonly MeasuredRow[]): string {
  const figure = (row: MeasuredRow, workload: Workload, of: Figure, digits: number): string => {
    const summary = rows.find(
      (each) =>
        each.runtime === row.runtime &&
        each.subject === row.subject &&
        each.workload === workload.name,
    )?.summary;
    return summary === undefined ? "fails" : grouped(summary[of].median, digits);
  };
  const shown = rows.filter(
    (row) => row.workload === bulk.name && row.kind !== "control" && !row.missing,
  );
  return table(
    [
      "",
      "",
      "MB/s, 4 MiB, 1 at a time",
      "MB/s, 4 MiB, 8 at a time",
      "CPU s/GB, client",
      "CPU s/GB, server",
      "requests/s, 64 KiB, 32 at a time",
      "p99 ms",
    ],
    namedOnce(
      shown.map((row) => [
        row.runtime,
        row.title,
        figure(row, bulk, "rate", 0),
        figure(row, bulkParallel, "rate", 0),
        figure(row, bulk, "clientCpu", 1),
        figure(row, bulk, "serverCpu", 1),
        figure(row, small, "requestsPerSecond", 0),
        figure(row, small, "p99", 0),
      ]),
    ),
  );
}

function firstByteTable(rows: readonly FirstByteRow[]): string {
  const far = rows.filter(
    ({ roundTrip, summary }) => roundTrip === ROUND_TRIP_MS && summary !== undefined,
  );
  const median = (row: FirstByteRow, how: FirstByteRow["how"]): string =>
    far
      .find(
        (each) => each.runtime === row.runtime && each.subject === row.subject && each.how === how,
      )
      ?.summary?.median.toFixed(0) ?? "";
  return table(
    [
      `first byte in ms, at ${ROUND_TRIP_MS} ms round-trip time`,
      "",
      "new peer",
      "known peer",
      "known peer, 0-RTT",
    ],
    namedOnce(
      far
        .filter(({ how }) => how === "cold")
        .map((row) => [
          row.runtime,
          row.title,
          median(row, "cold"),
          median(row, "resumed"),
          median(row, "early"),
        ]),
    ),
  );
}

function longIntroduction({ command, amount }: Results): string {
  const runs = amount.rounds === 1 ? "one run each" : `medians of ${amount.rounds} runs`;
  return [
    "MB/s over a link of 200 Mbit/s (25 MB/s) and 50 ms round-trip time, with pieces of 1 MiB, 8 at a",
    `time (\`${command}\`, ${runs}):`,
  ].join("\n");
}

function longTable(rows: readonly LongRow[]): string {
  const losses = [...new Set(rows.map(({ loss }) => loss))];
  const names = new Map(
    rows.filter(({ missing }) => !missing).map((row) => [`${row.runtime} ${row.title}`, row]),
  );
  return table(
    ["", "", ...losses.map((loss) => `${100 * loss} % loss`)],
    namedOnce(
      [...names.values()].map(({ runtime, title }) => [
        runtime,
        title,
        ...losses.map(
          (loss) =>
            rows
              .find(
                (each) => each.runtime === runtime && each.title === title && each.loss === loss,
              )
              ?.summary?.median.toFixed(1) ?? "fails",
        ),
      ]),
    ),
  );
}

/** Empties the first cell of a row where it repeats the one above. */
function namedOnce(rows: readonly (readonly string[])[]): (readonly string[])[] {
  return rows.map((row, at) => (row[0] === rows[at - 1]?.[0] ? ["", ...row.slice(1)] : row));
}

function grouped(value: number, digits: number): string {
  return value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

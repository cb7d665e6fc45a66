/** SVG chart of the results. */
import type { Results } from "./results.ts";
import type { Figure, MeasuredRow } from "./rows.ts";
import { line, round, svgOf, text } from "./svg.ts";
import { bulkParallel, small } from "./workloads.ts";

const WIDTH = 860;
const LEFT = 250;
const RIGHT = 110;
const BAR = 16;
const GAP = 5;
/** Width of a number beside its bar. */
const LABEL = 40;

const STYLE = `
  .quic { fill: #2f6feb } .tcp { fill: #1a9e8f } .grpc { fill: #d9822b } .shipped { fill: #a8503f }
  .line { stroke: #1f2328; stroke-width: 1.5 }
  .bare { stroke: #8b949e; stroke-width: 2; stroke-dasharray: 3 2 }`;
const DARK_STYLE = " .line { stroke: #e6edf3 }";

/**
 * Returns two panels: large pieces in MB/s, small ones in requests per second. Empty panels are
 * omitted.
 */
export function plotOf({ rows, machine, command, amount }: Results): string {
  const parts: string[] = [];
  let y = 16;
  const panels = [
    ["MB/s, pieces of 4 MiB, 8 at a time", bulkParallel.name, "rate"],
    ["Requests a second, pieces of 64 KiB, 32 at a time", small.name, "requestsPerSecond"],
  ] as const;
  for (const [title, workload, figure] of panels) {
    const panel = panelOf(
      title,
      rows.filter((row) => row.workload === workload && !row.missing),
      figure,
      y,
    );
    parts.push(...panel.parts);
    y = panel.end;
  }
  const notes = [
    `Both ends on one host, content verified. Bars: medians of ${amount.rounds * amount.turns} alternating runs; line: least to most; dashed: bare QUIC loop, or raw node:net.`,
    `${machine.cores} × ${machine.cpu}, ${machine.system}. ${command}`,
  ];
  for (const note of notes) {
    y += 16;
    parts.push(text(16, y, note, "faint"));
  }
  return svgOf({
    title: "vortex-peer: pieces over QUIC, TCP and gRPC on each runtime",
    width: WIDTH,
    height: y + 16,
    style: STYLE,
    darkStyle: DARK_STYLE,
    parts,
  });
}

function panelOf(
  title: string,
  rows: readonly MeasuredRow[],
  figure: Figure,
  top: number,
): { readonly parts: readonly string[]; readonly end: number } {
  if (rows.length === 0) return { parts: [], end: top };
  const shown = rows.filter(({ kind }) => kind !== "control");
  const bare = (row: MeasuredRow): number | undefined => {
    const name = row.subject === "tcp" ? "raw-tcp" : row.subject.replace(/^quic-/, "bare-");
    return rows.find(
      (each) => each.runtime === row.runtime && each.subject === name && each !== row,
    )?.summary?.[figure].median;
  };
  const greatest = Math.max(
    ...shown.flatMap((row) => [row.summary?.[figure].most ?? 0, bare(row) ?? 0]),
  );
  const x = (value: number): number => LEFT + (value / greatest) * (WIDTH - LEFT - RIGHT);
  let y = top + 12;
  const parts = [text(16, y, title, "head")];
  let runtime = "";
  for (const row of shown) {
    const { summary } = row;
    y += BAR + GAP;
    if (row.runtime !== runtime) {
      runtime = row.runtime;
      y += GAP;
      parts.push(text(16, y, runtime, "head"));
    }
    parts.push(text(LEFT - 8, y, row.title, "", "end"));
    if (summary === undefined) {
      parts.push(text(LEFT + 6, y, "fails", "faint"));
      continue;
    }
    const { median, least, most } = summary[figure];
    const middle = y - BAR / 2 + 3;
    const floor = bare(row);
    const end = Math.max(x(median), x(most)) + 6;
    // Keeps the number off the dashed line.
    const at =
      floor !== undefined && Math.abs(x(floor) - end - LABEL / 2) < LABEL / 2 + 6
        ? x(floor) + 6
        : end;
    parts.push(
      `<rect class="${colourOf(row)}" x="${LEFT}" y="${round(middle - BAR / 2)}" width="${round(x(median) - LEFT)}" height="${BAR}"/>`,
      line("line", x(least), middle, x(most), middle),
      ...(floor === undefined
        ? []
        : [line("bare", x(floor), middle - BAR / 2 - 1, x(floor), middle + BAR / 2 + 1)]),
      text(at, y, median < 10 ? median.toFixed(1) : Math.round(median).toLocaleString("en")),
    );
  }
  return { parts, end: y + 24 };
}

function colourOf({ subject, kind }: MeasuredRow): string {
  if (kind === "grpc") return "shipped";
  return subject.startsWith("quic") ? "quic" : subject;
}

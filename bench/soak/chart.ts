/** SVG chart of a run: a panel over time for each kind of memory and each count. */
import { line, round, svgOf, text } from "../svg.ts";
import type { Sample } from "./leak-check.ts";

const WIDTH = 860;
const LEFT = 70;
const RIGHT = 20;
const PANEL = 90;
const GAP = 34;

const STYLE = `
  .memory { fill: none; stroke: #2f6feb; stroke-width: 1.5 } .count { fill: none; stroke: #1a9e8f; stroke-width: 1.5 }
  .axis { stroke: #8b949e }`;

const panels = [
  ["heap", "JavaScript heap after a collection, MB", 1e6],
  ["external", "Memory outside the heap, MB", 1e6],
  ["resident", "Resident memory, MB", 1e6],
  ["descriptors", "Open file descriptors", 1],
  ["handles", "Handles of the event loop, without timers", 1],
  ["timers", "Timers", 1],
  ["operations", "Requests made and answered at the moment", 1],
  ["connections", "QUIC connections, both sides", 1],
] as const satisfies readonly (readonly [keyof Sample, string, number])[];

/**
 * Returns the chart. Panels with only zeros are left out.
 *
 * @param samples the last one was taken after everything was closed
 */
export function chartOf(title: string, samples: readonly Sample[]): string {
  const until = Math.max(1, ...samples.map(({ seconds }) => seconds));
  const x = (seconds: number): number => LEFT + (seconds / until) * (WIDTH - LEFT - RIGHT);
  const parts: string[] = [text(16, 26, title, "head")];
  let top = 48;
  for (const [name, heading, unit] of panels) {
    const values = samples.map((sample) => sample[name] / unit);
    const most = Math.max(...values);
    if (most === 0) continue;
    const bottom = top + PANEL;
    const y = (value: number): number => bottom - (value / most) * (PANEL - 16);
    const points = samples.map(
      ({ seconds }, at) => `${round(x(seconds))},${round(y(values[at] ?? 0))}`,
    );
    parts.push(
      text(LEFT, top + 4, heading),
      line("axis", LEFT, bottom, WIDTH - RIGHT, bottom),
      line("axis", LEFT, top + 16, LEFT, bottom),
      text(LEFT - 6, top + 20, shortened(most), "faint", "end"),
      text(LEFT - 6, bottom, "0", "faint", "end"),
      `<polyline class="${unit === 1 ? "count" : "memory"}" points="${points.join(" ")}"/>`,
    );
    top = bottom + GAP;
  }
  parts.push(
    text(LEFT, top - 14, "0 s", "faint"),
    text(WIDTH - RIGHT, top - 14, `${Math.round(until)} s, after all was closed`, "faint", "end"),
  );
  return svgOf({ title, width: WIDTH, height: top, style: STYLE, darkStyle: "", parts });
}

function shortened(value: number): string {
  return value < 10 && !Number.isInteger(value) ? value.toFixed(1) : String(Math.round(value));
}

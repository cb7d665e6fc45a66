/** Whether memory leaks. */

import { summarize } from "../statistics.ts";
import type { Gauges } from "./gauges.ts";

/** What was held, and when. */
export interface Sample extends Gauges {
  /** Since the load began. */
  readonly seconds: number;
}

/** The kinds of memory that are judged, how they are called, and how much of a growth is none: a part of it, and so many bytes. */
const memories = {
  heap: { title: "JavaScript heap", part: 0.1, bytes: 4e6 },
  external: { title: "memory outside the heap", part: 0.15, bytes: 16e6 },
  resident: { title: "resident memory", part: 0.15, bytes: 24e6 },
} as const;

/** A kind of memory that is judged. */
export type Memory = keyof typeof memories;

/** How a kind of memory went, in bytes. */
export interface Trend {
  readonly memory: Memory;
  readonly title: string;
  /** Median of the first third after the warm-up. */
  readonly first: number;
  /** Median of the last third. */
  readonly last: number;
  /** What the straight line through all samples after the warm-up gains from its first to its last. */
  readonly slope: number;
  /** What both the growth from first to last and that of the line have to exceed to be a leak. */
  readonly tolerance: number;
  readonly leaks: boolean;
}

/** The part of a run in which caches, pools and compiled code come about. */
const WARM_UP = 0.25;
/** Seconds after the warm-up, and samples in them, fewer than which say nothing. */
const MIN_SECONDS = 90;
const MIN_SAMPLES = 12;

/**
 * How memory went. A leak shows twice: the median of the last third exceeds that of the first, and the straight line through all
 * samples (least squares) rises as far; both by more than the tolerance. One alone is a moment of the load, or an allocator that
 * keeps what it had once. Empty for a run that is too short to say.
 */
export function trendsOf(samples: readonly Sample[]): readonly Trend[] {
  const judged = samples.slice(Math.floor(samples.length * WARM_UP));
  const lasted = (judged.at(-1)?.seconds ?? 0) - (judged[0]?.seconds ?? 0);
  if (judged.length < MIN_SAMPLES || lasted < MIN_SECONDS) return [];
  const third = Math.floor(judged.length / 3);
  return (Object.keys(memories) as Memory[]).map((memory) => {
    const { title, part, bytes } = memories[memory];
    const medianOf = (some: readonly Sample[]): number =>
      summarize(some.map((sample) => sample[memory])).median;
    const first = medianOf(judged.slice(0, third));
    const last = medianOf(judged.slice(-third));
    const slope = riseOf(judged.map((sample) => [sample.seconds, sample[memory]]));
    const tolerance = first * part + bytes;
    return {
      memory,
      title,
      first,
      last,
      slope,
      tolerance,
      leaks: last - first > tolerance && slope > tolerance,
    };
  });
}

/** What a straight line through the points gains from the first to the last, by least squares. */
function riseOf(points: readonly (readonly [x: number, y: number])[]): number {
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const xs = points.map(([x]) => x);
  const [x0, y0] = [mean(xs), mean(points.map(([, y]) => y))];
  let above = 0;
  let below = 0;
  for (const [x, y] of points) {
    above += (x - x0) * (y - y0);
    below += (x - x0) ** 2;
  }
  return below === 0 ? 0 : (above / below) * (Math.max(...xs) - Math.min(...xs));
}

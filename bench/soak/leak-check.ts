/** Detection of memory leaks. */

import { summarize } from "../statistics.ts";
import type { Gauges } from "./gauges.ts";

/** Gauges with their time. */
export interface Sample extends Gauges {
  /** Time since the start of the load, in seconds. */
  readonly seconds: number;
}

/**
 * Kinds of memory that are checked, with their names. Growth within `part` of the start plus
 * `bytes` is tolerated.
 */
const memories = {
  heap: { title: "JavaScript heap", part: 0.1, bytes: 4e6 },
  external: { title: "memory outside the heap", part: 0.15, bytes: 16e6 },
  resident: { title: "resident memory", part: 0.15, bytes: 24e6 },
} as const;

/** Kind of memory that is checked. */
export type Memory = keyof typeof memories;

/** Trend of one kind of memory, in bytes. */
export interface Trend {
  readonly memory: Memory;
  readonly title: string;
  /** Median of the first third after the warm-up. */
  readonly first: number;
  /** Median of the last third. */
  readonly last: number;
  /** Rise of the regression line over all samples after the warm-up, from first to last. */
  readonly slope: number;
  /**
   * Limit that both the growth of the medians and the rise of the line must exceed to count as a
   * leak.
   */
  readonly tolerance: number;
  readonly leaks: boolean;
}

/** Fraction of a run that is warm-up, in which caches, pools and compiled code are built. */
const WARM_UP = 0.25;
/** Minimum time after the warm-up in seconds, and minimum number of samples in it. */
const MIN_DURATION_S = 90;
const MIN_SAMPLES = 12;

/**
 * Computes the trends of memory. A leak shows twice: in the medians of the first and last third,
 * and in the regression line (least squares), both beyond the tolerance. One alone is a moment of
 * the load, or an allocator that keeps its peak. Empty for a run that is too short.
 */
export function trendsOf(samples: readonly Sample[]): readonly Trend[] {
  const judged = samples.slice(Math.floor(samples.length * WARM_UP));
  const lasted = (judged.at(-1)?.seconds ?? 0) - (judged[0]?.seconds ?? 0);
  if (judged.length < MIN_SAMPLES || lasted < MIN_DURATION_S) return [];
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

/** Returns the rise of the regression line (least squares) from the first to the last point. */
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

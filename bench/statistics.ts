/** Summary of several measurements of one quantity. */
export interface Summary {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/**
 * Returns the median and the extremes of the values.
 *
 * @throws `RangeError` for an empty list
 */
export function summarize(values: readonly number[]): Summary {
  const sorted = values.toSorted((a, b) => a - b);
  return { median: quantile(sorted, 0.5), least: quantile(sorted, 0), most: quantile(sorted, 1) };
}

/**
 * Returns a quantile, interpolated linearly between its neighbours.
 *
 * @param sorted ascending
 * @param part fraction of the values below it, 0 to 1
 * @throws `RangeError` for an empty list
 */
export function quantile(sorted: readonly number[], part: number): number {
  const at = (sorted.length - 1) * part;
  const [below, above] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  if (below === undefined || above === undefined) throw new RangeError("no values");
  return below + (above - below) * (at - Math.floor(at));
}

/** Several measurements of one thing, summed up. */
export interface Summary {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** @throws `RangeError` for no values at all */
export function summarize(values: readonly number[]): Summary {
  const sorted = values.toSorted((a, b) => a - b);
  return { median: quantile(sorted, 0.5), least: quantile(sorted, 0), most: quantile(sorted, 1) };
}

/**
 * The value below which that part of the values lies, between two of them by their distance.
 *
 * @param sorted ascending
 * @param part 0 to 1
 * @throws `RangeError` for no values at all
 */
export function quantile(sorted: readonly number[], part: number): number {
  const at = (sorted.length - 1) * part;
  const [below, above] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  if (below === undefined || above === undefined) throw new RangeError("no values");
  return below + (above - below) * (at - Math.floor(at));
}

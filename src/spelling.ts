/** Detection of misspelt names. */

/** Maximum edit distance at which a name counts as a misspelling of a known name, in characters. */
const MAX_TYPOS = 2;

/**
 * Minimum length of a known name, in characters, for a name to count as its misspelling. Shorter
 * names resemble too many others.
 */
const MIN_LENGTH = 4;

/** Returns the first of `known` that `name` is probably a misspelling of, or undefined. */
export function similarName(name: string, known: Iterable<string>): string | undefined {
  for (const each of known) if (resembles(name, each)) return each;
  return undefined;
}

/**
 * Returns true if `key` is probably a misspelling of `name`: they differ only by case, separators
 * or up to {@link MAX_TYPOS} typos.
 */
function resembles(key: string, name: string): boolean {
  // A key that is much longer, also by separators, is no misspelling.
  if (key.length > 2 * name.length + MAX_TYPOS) return false;
  const [one, other] = [plain(key), plain(name)];
  if (one === other) return true;
  if (other.length < MIN_LENGTH || Math.abs(one.length - other.length) > MAX_TYPOS) return false;
  // Allow one typo per four characters, so that half of a short key cannot be one.
  return distance(one, other) <= Math.min(MAX_TYPOS, Math.floor(other.length / MIN_LENGTH));
}

function plain(key: string): string {
  return key.toLowerCase().replace(/[-_]/g, "");
}

/**
 * Returns the edit distance of two texts (optimal string alignment). That is the number of
 * insertions, deletions, replacements and swaps of neighbouring characters that change one text to
 * the other.
 */
function distance(one: string, other: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let row = 1; row <= one.length; row++) {
    const current = [row];
    for (let column = 1; column <= other.length; column++) {
      const differs = one[row - 1] === other[column - 1] ? 0 : 1;
      let minimum = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + differs,
      );
      const swapped =
        row > 1 &&
        column > 1 &&
        one[row - 1] === other[column - 2] &&
        one[row - 2] === other[column - 1];
      if (swapped) minimum = Math.min(minimum, (beforeLast[column - 2] ?? 0) + 1);
      current.push(minimum);
    }
    [beforeLast, last] = [last, current];
  }
  return last[other.length] ?? 0;
}

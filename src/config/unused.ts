/** Detection of configuration values that have no effect, but seem meant for this library. */
import { configKeys, keys, ownSection } from "./keys.ts";
import { isSection, type Problem, valueAt } from "./values.ts";

/**
 * Maximum edit distance at which an unknown key counts as a misspelling of a known key, in
 * characters.
 */
const MAX_TYPOS = 2;

/**
 * Minimum length of a known key, in characters, for a key to count as its misspelling. Shorter keys
 * resemble too many others.
 */
const MIN_LENGTH = 4;

/** Sections that name three mutual TLS files, which have an effect only if all three are set. */
const mutualTlsSections = ["upload.server", "upload.client"] as const;
const mutualTlsKeys = ["caCert", "cert", "key"] as const;

/**
 * Finds values of a configuration that have no effect, but were probably meant for this library.
 * The field `expected` of each result says what would have an effect. `input` must not contain
 * invalid values.
 */
export function unusedKeys(input: unknown): Problem[] {
  return [...misspelt(input, []), ...overridden(input), ...incompleteMutualTls(input)];
}

/**
 * Finds unknown keys that resemble a known key. Other unknown keys are ignored, because dfdaemon
 * has many keys that this library does not use.
 */
function misspelt(input: unknown, path: readonly string[]): Problem[] {
  const section = sectionAt(input, path);
  // Unknown keys in the section of this library are already errors.
  if (section === undefined || path[0] === ownSection) return [];
  const known = knownKeys(path);
  return Object.entries(section).flatMap(([key, value]) => {
    if (known.has(key)) return misspelt(input, [...path, key]);
    // An empty value comes from a template, and is not a mistake.
    if (value === null || value === undefined) return [];
    const meant = [...known].find((name) => resembles(key, name));
    return meant === undefined
      ? []
      : [{ path: [...path, key], value, expected: `has no effect: expected ${meant}` }];
  });
}

/**
 * Finds values that another path or spelling of the same key overrides. Omits values that are equal
 * to the effective value.
 */
function overridden(input: unknown): Problem[] {
  return configKeys.flatMap((key) => {
    const [first, ...others] = keys[key].paths.flatMap((path) => {
      const found = valueAt(input, path);
      return "value" in found && found.value !== undefined && found.value !== null
        ? [{ path, value: found.value }]
        : [];
    });
    if (first === undefined) return [];
    return others
      .filter(({ value }) => JSON.stringify(value) !== JSON.stringify(first.value))
      .map(({ path, value }) => ({
        path,
        value,
        expected: `has no effect: ${first.path.join(".")} counts`,
      }));
  });
}

/**
 * Reports the mutual TLS files of a section that names only some of the three files. These files
 * have no effect.
 */
function incompleteMutualTls(input: unknown): Problem[] {
  return mutualTlsSections.flatMap((section) => {
    const given = mutualTlsKeys.flatMap((key) => {
      for (const path of keys[`${section}.${key}`].paths) {
        const found = valueAt(input, path);
        if ("value" in found && found.value !== undefined && found.value !== null)
          return [{ key, path, value: found.value }];
      }
      return [];
    });
    const missing = mutualTlsKeys.filter((key) => !given.some((each) => each.key === key));
    if (missing.length === 0) return [];
    const expected = `has no effect without ${missing.join(" and ")} beside it`;
    return given.map(({ path, value }) => ({ path, value, expected }));
  });
}

/** Returns the names of all known keys and subsections directly in the section at `path`. */
function knownKeys(path: readonly string[]): ReadonlySet<string> {
  const paths = configKeys.flatMap((key) => keys[key].paths);
  const within = paths.filter(
    (each) => each.length > path.length && path.every((name, depth) => each[depth] === name),
  );
  return new Set(within.map((each) => each[path.length] ?? ""));
}

function sectionAt(
  input: unknown,
  path: readonly string[],
): Readonly<Record<string, unknown>> | undefined {
  const found = valueAt(input, path);
  return "value" in found && isSection(found.value) ? found.value : undefined;
}

/**
 * Returns true if `key` is probably a misspelling of `name`: they differ only by case, separators
 * or up to {@link MAX_TYPOS} typos.
 */
function resembles(key: string, name: string): boolean {
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

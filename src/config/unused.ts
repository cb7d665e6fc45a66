/** Values of a configuration that look meant for this library and have no effect. */
import { configKeys, keys, ownSection } from "./keys.ts";
import { isSection, type Problem, valueAt } from "./values.ts";

/** Greatest number of characters by which a misspelt key differs from the one that is meant. */
const MAX_TYPOS = 2;

/** Least length of a key that a misspelt one is compared with, in characters: short ones resemble too many others. */
const MIN_LENGTH = 4;

/** Sections whose three files count only together. */
const mutualTlsSections = ["upload.server", "upload.client"] as const;
const mutualTlsKeys = ["caCert", "cert", "key"] as const;

/** Every value that has no effect, with what would have one, of an input without wrong values. */
export function unusedKeys(input: unknown): Problem[] {
  return [...misspelt(input, []), ...overruled(input), ...incomplete(input)];
}

/** Keys beside those that are read that resemble one of them. dfdaemon has many more, which are none of our business. */
function misspelt(input: unknown, path: readonly string[]): Problem[] {
  const section = sectionAt(input, path);
  // Our own section must hold no unknown keys in the first place.
  if (section === undefined || path[0] === ownSection) return [];
  const known = knownKeys(path);
  return Object.entries(section).flatMap(([key, value]) => {
    if (known.has(key)) return misspelt(input, [...path, key]);
    // A key of an empty value is one that a template leaves open.
    if (value === null || value === undefined) return [];
    const meant = [...known].find((name) => resembles(key, name));
    return meant === undefined
      ? []
      : [{ path: [...path, key], value, expected: `has no effect: expected ${meant}` }];
  });
}

/** Values at another place of a key, or under another spelling of it, that differ from the one that counts. */
function overruled(input: unknown): Problem[] {
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

/** Files for mutual TLS without the others of their section. */
function incomplete(input: unknown): Problem[] {
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

/** The names that are read in a section, of values and of sections. */
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

/** Whether a key is another one but for its case, its separators or a few characters. */
function resembles(key: string, name: string): boolean {
  const [one, other] = [plain(key), plain(name)];
  if (one === other) return true;
  if (other.length < MIN_LENGTH || Math.abs(one.length - other.length) > MAX_TYPOS) return false;
  // Half of a short key may not be a mistake.
  return distance(one, other) <= Math.min(MAX_TYPOS, Math.floor(other.length / MIN_LENGTH));
}

function plain(key: string): string {
  return key.toLowerCase().replace(/[-_]/g, "");
}

/** The number of characters to insert, delete, replace or swap with the next (optimal string alignment). */
function distance(one: string, other: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let row = 1; row <= one.length; row++) {
    const current = [row];
    for (let column = 1; column <= other.length; column++) {
      const differs = one[row - 1] === other[column - 1] ? 0 : 1;
      let least = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + differs,
      );
      const swapped =
        row > 1 &&
        column > 1 &&
        one[row - 1] === other[column - 2] &&
        one[row - 2] === other[column - 1];
      if (swapped) least = Math.min(least, (beforeLast[column - 2] ?? 0) + 1);
      current.push(least);
    }
    [beforeLast, last] = [last, current];
  }
  return last[other.length] ?? 0;
}

/** Detection of configuration values that have no effect, but seem meant for this library. */
import { similarName } from "../spelling.ts";
import { configKeys, keys, ownSection } from "./keys.ts";
import { isSection, type Problem, valueAt } from "./values.ts";

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
    const meant = similarName(key, known);
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

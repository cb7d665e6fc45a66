import { show } from "../arguments.ts";
import type { VortexError } from "../errors.ts";
import { type ConfigKey, configKeys, keys, ownKeys, ownSection, type ValueOf } from "./keys.ts";
import type { Config } from "./sections.ts";
import { unusedKeys } from "./unused.ts";
import { check, isSection, type Problem, problemsError, valueAt } from "./values.ts";

export type { Config, MutualTlsFiles } from "./sections.ts";

/**
 * Values for some keys of a configuration. For each value, `source` names the file, command-line
 * flag or function call that set it.
 */
export type ConfigLayer = ReadonlyMap<
  ConfigKey,
  { readonly value: unknown; readonly source: string }
>;

/** Effective value of one configuration key, and where it was set. */
export interface ConfigSetting {
  /** Full name of the key including its sections, such as `download.protocol`. */
  readonly key: ConfigKey;
  /** Parsed value, of the type that the key has in {@link Config}. */
  readonly value: unknown;
  /**
   * Value in the form in which a configuration file would contain it. Undefined if the key has
   * neither a value nor a default.
   */
  readonly text: string | undefined;
  /**
   * Name of the file, command-line flag or function call that set the value. `default` if the value
   * is the default of the key.
   */
  readonly source: string;
}

/** Effective configuration: the merged values, and for each value where it was set. */
export interface ResolvedConfig {
  /** Effective values, arranged in sections like the configuration file. */
  readonly config: Config;
  /** List of all keys with their effective values, in the order of `dfdaemon.yaml`. */
  readonly settings: readonly ConfigSetting[];
}

/** Invalid value in a configuration, with the place at which it was found. */
export interface ConfigProblem extends Problem {
  /**
   * Place of the value, such as `dfdaemon.yaml:12`. Absent if {@link parseConfigLayer} was called
   * without `sourceOf`.
   */
  readonly source?: string;
}

/**
 * Parses a configuration, and applies the defaults. `input` is the object in a `dfdaemon.yaml`, or
 * an object of the same form.
 *
 * - All keys are optional. Unknown keys are ignored, because a real file has many keys for dfdaemon
 *   only. Unknown keys in the section `vortexPeer` are errors, because only this library reads that
 *   section.
 * - Keys may be spelt as in stock Dragonfly (`quicPort`) or as in its design document
 *   (`quic_port`). If both spellings are present, the spelling of stock Dragonfly has precedence.
 * - Older names are accepted: `storage.server.protocol` for `download.protocol`, and `rateLimit`
 *   for `bandwidthLimit`. If both names are present, the new name has precedence.
 * - Durations and rates are text with a unit, such as `360s`, `1m30s` or `50MB`.
 *
 * Source of keys and defaults: dragonfly-client, `dragonfly-client-config/src/dfdaemon.rs`.
 *
 * @throws `InvalidArgument` if any value is invalid. Its message lists each invalid key, its value
 * and the allowed values. Its cause is an `AggregateError`: each of its `errors` is a `VortexError`
 * whose cause is a {@link ConfigProblem}.
 *
 * @example
 * ```ts
 * import { createDownloader } from "vortex-peer";
 * import { downloaderOptions, parseConfig } from "vortex-peer/config";
 *
 * const config = parseConfig({ download: { protocol: "quic", pieceTimeout: "1m30s" } });
 * const downloader = createDownloader(downloaderOptions(config));
 * ```
 */
export function parseConfig(input: unknown): Config {
  return resolveConfig(parseConfigLayer(input)).config;
}

/**
 * Parses one layer of a configuration, such as one file. Accepts the same input as
 * {@link parseConfig}, but applies no defaults. Pass the result to {@link resolveConfig}, together
 * with other layers.
 *
 * @param sourceOf returns the place of the value at a path of keys, such as `dfdaemon.yaml:12`. It
 * appears in error messages. Default: no place
 * @param onUnused receives one line of text for each value that has no effect, but was probably
 * meant for this library. Examples are a misspelt key, a value overridden by another spelling of
 * its key, and an incomplete set of mutual TLS files. Default: such values are ignored silently
 * @throws `InvalidArgument` if any value is invalid, see {@link parseConfig}
 */
export function parseConfigLayer(
  input: unknown,
  sourceOf: (path: readonly string[]) => string | undefined = () => undefined,
  onUnused: (line: string) => void = () => {},
): ConfigLayer {
  const layer = new Map<ConfigKey, { value: unknown; source: string }>();
  const problems = new Map<string, ConfigProblem>();
  const sourced = (problem: Problem): ConfigProblem => {
    const source = sourceOf(problem.path);
    return { ...problem, ...(source !== undefined && { source }) };
  };
  const note = (problem: Problem): void => {
    problems.set(problem.path.join("."), sourced(problem));
  };
  for (const key of configKeys) {
    for (const path of keys[key].paths) {
      const found = valueAt(input, path);
      if ("problem" in found) note(found.problem);
      // A YAML key without a value is null, and counts as absent.
      if (!("value" in found) || found.value === undefined || found.value === null) continue;
      const checked = check<unknown>(keys[key].schema, found.value, path);
      if ("problems" in checked) checked.problems.forEach(note);
      else if (!layer.has(key))
        layer.set(key, { value: checked.value, source: sourceOf(path) ?? "configuration" });
    }
  }
  unknownOwnKeys(input, [ownSection], ownKeys).forEach(note);
  if (problems.size > 0) throw failure([...problems.values()]);
  for (const problem of unusedKeys(input)) onUnused(describeProblem(sourced(problem)));
  return layer;
}

/**
 * Creates a configuration layer from values that are valid already. Skips values that are
 * undefined.
 *
 * @param sourceOf returns where the value of a key was set, such as `--protocol`
 */
export function configLayer(
  values: { readonly [Key in ConfigKey]?: ValueOf<Key> | undefined },
  sourceOf: (key: ConfigKey) => string,
): ConfigLayer {
  return new Map(
    configKeys.flatMap((key) => {
      const value = values[key];
      return value === undefined ? [] : [[key, { value, source: sourceOf(key) }]];
    }),
  );
}

/**
 * Merges configuration layers. Each key gets its value from the first layer that contains it. A key
 * that no layer contains gets its default.
 */
export function resolveConfig(...layers: readonly ConfigLayer[]): ResolvedConfig {
  const settings = configKeys.map((key): ConfigSetting => {
    const { value, source } = layers.find((layer) => layer.has(key))?.get(key) ?? {
      value: keys[key].defaultValue,
      source: "default",
    };
    return {
      key,
      value,
      text: value === undefined ? undefined : keys[key].format(value as never),
      source,
    };
  });
  return { config: nest(settings), settings };
}

/** Formats an invalid value as one line of an error message. */
function describeProblem({ path, value, expected, source }: ConfigProblem): string {
  const key = path.length === 0 ? "configuration" : path.join(".");
  return source === undefined
    ? `${key} ${show(value)}: ${expected}`
    : `${source}: ${key}: ${show(value)}: ${expected}`;
}

function failure(problems: readonly ConfigProblem[]): VortexError {
  const separator = problems.some(({ source }) => source !== undefined) ? "\n" : "; ";
  return problemsError(problems, describeProblem, separator);
}

/**
 * Finds unknown keys in the section `vortexPeer`. They are errors, because no other program reads
 * that section.
 *
 * @param path path to the section or subsection to search
 * @param known full names of the known keys
 */
function unknownOwnKeys(
  input: unknown,
  path: readonly string[],
  known: ReadonlySet<string>,
): Problem[] {
  const found = valueAt(input, path);
  if (!("value" in found) || !isSection(found.value)) return [];
  return Object.entries(found.value).flatMap(([key, value]) => {
    const name = [...path, key].join(".");
    if (known.has(name)) return [];
    const within = `${name}.`;
    if ([...known].some((other) => other.startsWith(within)))
      return unknownOwnKeys(input, [...path, key], known);
    const prefix = `${path.join(".")}.`;
    const siblings = [...known]
      .filter((other) => other.startsWith(prefix))
      .map((other) => other.slice(prefix.length));
    const allowed = [...new Set(siblings.map((other) => other.split(".")[0]))].filter(
      (other) => !other?.includes("_"),
    );
    return [
      {
        path: [...path, key],
        value,
        expected: `expected no other keys than ${allowed.join(", ")}`,
      },
    ];
  });
}

/** Arranges a flat list of settings as nested sections. */
function nest(settings: readonly ConfigSetting[]): Config {
  const root: Record<string, unknown> = {};
  for (const { key, value } of settings) {
    const path = key.split(".");
    const last = path.pop() ?? "";
    let section = root;
    for (const name of path) {
      section[name] ??= {};
      section = section[name] as Record<string, unknown>;
    }
    section[last] = value;
  }
  // The type of `keys` guarantees that the names and value types are those of Config.
  return root as unknown as Config;
}

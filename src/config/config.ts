import { VortexError } from "../errors.ts";
import { type ConfigKey, configKeys, keys, ownKeys, ownSection, type ValueOf } from "./keys.ts";
import type { Config } from "./sections.ts";
import { unusedKeys } from "./unused.ts";
import { check, isSection, type Problem, show, valueAt } from "./values.ts";

export type { Config, MutualTlsFiles } from "./sections.ts";

/**
 * Values for some keys of a configuration, each with the name of its source: a file, a command line
 * flag, or a call.
 */
export type ConfigLayer = ReadonlyMap<
  ConfigKey,
  { readonly value: unknown; readonly source: string }
>;

/** Effective value of one key. */
export interface ConfigSetting {
  /** Full name of the key, sections included, such as `download.protocol`. */
  readonly key: ConfigKey;
  /** Parsed value, as in {@link Config}. */
  readonly value: unknown;
  /** Value as text, as a file would contain it; undefined if it is not set. */
  readonly text: string | undefined;
  /** Source of the value, from its layer; `default` if no layer sets it. */
  readonly source: string;
}

/** Effective configuration, with the source of each value. */
export interface ResolvedConfig {
  /** Values by section. */
  readonly config: Config;
  /** All keys, in the order of a `dfdaemon.yaml`. */
  readonly settings: readonly ConfigSetting[];
}

/** Invalid value in a configuration. */
export interface ConfigProblem extends Problem {
  /** Location of the value, from `sourceOf` of {@link parseConfigLayer}. */
  readonly source?: string;
}

/**
 * Parses a configuration: the object in a `dfdaemon.yaml`, or one of the same form.
 *
 * - No key is required. Unknown keys are ignored, because a real file has many. Only the section
 *   `vortexPeer`, which belongs to this library, must not contain any.
 * - Keys may be spelt as in stock Dragonfly (`quicPort`) or as in its design document
 *   (`quic_port`). The former wins if both are present.
 * - Older names are accepted: `storage.server.protocol` for `download.protocol`, and `rateLimit`
 *   for `bandwidthLimit`. The new names win.
 * - Durations are text with a unit, such as `360s` and `1m30s`.
 *
 * Source of keys and defaults: dragonfly-client, `dragonfly-client-config/src/dfdaemon.rs`.
 *
 * @example
 * ```ts
 * import { createDownloader, downloaderOptions, parseConfig } from "vortex-peer";
 *
 * const config = parseConfig({ download: { protocol: "quic", pieceTimeout: "1m30s" } });
 * const downloader = createDownloader(downloaderOptions(config));
 * ```
 *
 * @throws `InvalidArgument` that lists each invalid key, its value and what is allowed. Its cause
 * is an array of {@link ConfigProblem}.
 */
export function parseConfig(input: unknown): Config {
  return resolveConfig(parseConfigLayer(input)).config;
}

/**
 * Parses one layer of a configuration, like {@link parseConfig} but without defaults. Pass the
 * result to {@link resolveConfig}, together with other layers.
 *
 * @param sourceOf returns the location of the value at a path of keys, such as `dfdaemon.yaml:12`,
 * for messages. Default: no location
 * @param onUnused receives a line for each value that has no effect, but seems meant for this
 * library. Examples: a misspelt key, the losing one of two spellings, and an incomplete section for
 * mutual TLS. Default: ignored
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

/** Creates a layer from valid values, without the undefined ones. */
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

/** Merges layers: each key takes its value from the first layer that has it, else its default. */
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

/** Formats a problem as one line. */
function describeProblem({ path, value, expected, source }: ConfigProblem): string {
  const key = path.length === 0 ? "configuration" : path.join(".");
  return source === undefined
    ? `${key} ${show(value)}: ${expected}`
    : `${source}: ${key}: ${show(value)}: ${expected}`;
}

function failure(problems: readonly ConfigProblem[]): VortexError {
  const separator = problems.some(({ source }) => source !== undefined) ? "\n" : "; ";
  return new VortexError("InvalidArgument", problems.map(describeProblem).join(separator), {
    cause: problems,
  });
}

/**
 * Finds unknown keys in the section of this library. No other program reads it, so they are errors.
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

/** Arranges the settings as nested sections. */
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

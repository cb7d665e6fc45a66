import { VortexError } from "../errors.ts";
import { type ConfigKey, configKeys, keys, ownKeys, ownSection, type ValueOf } from "./keys.ts";
import type { Config } from "./sections.ts";
import { unusedKeys } from "./unused.ts";
import { check, isSection, type Problem, show, valueAt } from "./values.ts";

export type { Config, MutualTlsFiles } from "./sections.ts";

/** Values for some keys, each with where it comes from: a file, the flags of a command line, or what a call is told. */
export type ConfigLayer = ReadonlyMap<
  ConfigKey,
  { readonly value: unknown; readonly source: string }
>;

/** One key of a configuration in effect. */
export interface ConfigSetting {
  /** Its name, with the sections that lead to it. */
  readonly key: ConfigKey;
  /** As {@link Config} has it. */
  readonly value: unknown;
  /** As a file would have it; undefined for a value that is not set. */
  readonly text: string | undefined;
  /** Where the value comes from, as its layer says; `default` when no layer has it. */
  readonly source: string;
}

/** A configuration in effect, and where each of its values comes from. */
export interface ResolvedConfig {
  /** The values. */
  readonly config: Config;
  /** Every key, in the order of a `dfdaemon.yaml`. */
  readonly settings: readonly ConfigSetting[];
}

/** One wrong value of a configuration. */
export interface ConfigProblem extends Problem {
  /** Where the value stands, as {@link parseConfigLayer} was told. */
  readonly source?: string;
}

/**
 * Reads a configuration: the object that a `dfdaemon.yaml` holds, or one like it. Nothing is required, and unknown keys are left
 * alone, since a real file has many; only `vortexPeer`, which is ours, must hold nothing else. Keys may be spelt as stock Dragonfly
 * does (`quicPort`) or as its design document (`quic_port`); the former counts when both are there. The protocol may stand in
 * `storage.server.protocol` too, and limits in `rateLimit`, as in older versions; `download.protocol` and `bandwidthLimit` win.
 * Durations are text with a unit, as in `360s` and `1m30s`.
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
 * @throws `InvalidArgument` that names each wrong key, its value and what is allowed; its cause is an array of
 * {@link ConfigProblem}
 */
export function parseConfig(input: unknown): Config {
  return resolveConfig(parseConfigLayer(input)).config;
}

/**
 * As {@link parseConfig}, but only what `input` says, to be laid over other layers.
 *
 * @param sourceOf where the value at these keys stands, such as `dfdaemon.yaml:12`. It is named before what is wrong with it.
 * @param onUnused receives a line for each value that has no effect although it looks meant for this library: a misspelt key beside
 * one that is read, the losing one of two spellings with different values, and a part of a mutual TLS section. Default: none
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
      // A key without a value is null in YAML, and the same as none.
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

/** A layer of values that are of the right type already, undefined ones left out. */
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

/** Each key from the first layer that has it, else its default. */
export function resolveConfig(...layers: readonly ConfigLayer[]): ResolvedConfig {
  const settings = configKeys.map((key): ConfigSetting => {
    const { value, source } = layers.find((layer) => layer.has(key))?.get(key) ?? {
      value: keys[key].standard,
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

/** One line for one wrong value. */
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

/** Keys in our own section that mean nothing: nobody else's, so misspelt ones. */
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

/** The settings as sections within sections. */
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
  // That the keys are those of Config, each with a value of its type, is what the type of `keys` holds.
  return root as unknown as Config;
}

import * as v from "valibot";
import { show } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import { parseDuration } from "./duration.ts";
import { parseSize } from "./size.ts";

/**
 * Creates a schema that accepts an integer from `min` to `max`.
 *
 * @param what noun for the value in error messages. Default: `an integer`
 */
export function integer(
  min: number,
  max: number,
  what = "an integer",
): v.GenericSchema<unknown, number> {
  const expected = `expected ${what} from ${min} to ${max}`;
  return v.pipe(
    v.number(expected),
    v.check((value) => Number.isInteger(value) && value >= min && value <= max, expected),
  );
}

/** Schema of a port, an integer from 0 to 65535. A listener at port 0 uses any free port. */
export const port: v.GenericSchema<unknown, number> = integer(0, 65535, "a port");

/**
 * Creates a schema that accepts a duration from 1 ms to `days` days, such as `360s`, and outputs it
 * in ms. Accepts only text with a unit, like stock Dragonfly. A number without a unit could mean
 * seconds or milliseconds.
 */
export function durationUpTo(days: number): v.GenericSchema<unknown, number> {
  const expected = `expected a duration from 1ms to ${days}d with its unit, such as 360s or 1m30s`;
  return v.pipe(
    v.string(expected),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const milliseconds = Math.round(parseDuration(dataset.value) ?? 0);
      if (milliseconds >= 1 && milliseconds <= days * 24 * 3600 * 1000) return milliseconds;
      addIssue({ message: expected });
      return NEVER;
    }),
  );
}

/**
 * Schema of a duration from 1 ms to 30 days, such as `360s`; outputs ms. See {@link durationUpTo}.
 */
export const duration: v.GenericSchema<unknown, number> = durationUpTo(30);

/**
 * Schema of the key `vortexPeer.patience`: 0, or a duration from 1 ms to 1 day, such as `60s`.
 * Outputs ms.
 */
export const patience: v.GenericSchema<unknown, number> = patienceSchema();

/**
 * Schema of a rate of at least 1 byte/s, such as `50MiB`. Outputs bytes/s. A number without a unit
 * is in bytes/s, like in dfdaemon.
 */
export const bandwidth: v.GenericSchema<unknown, number> = bandwidthSchema();

/** Schema of text that is an IPv4 or IPv6 address. */
export const ip: v.GenericSchema<unknown, string> = v.pipe(
  v.string("expected an IPv4 or IPv6 address"),
  v.ip("expected an IPv4 or IPv6 address"),
);

/**
 * Creates a schema that accepts text with at least one non-space character.
 *
 * @param what noun for the value in error messages
 */
export function text(what: string): v.GenericSchema<unknown, string> {
  return v.pipe(v.string(`expected ${what}`), v.regex(/\S/, `expected ${what}`));
}

/** Schema of a SHA-256 fingerprint of a certificate: 64 hex digits, with or without colons. */
export const fingerprint: v.GenericSchema<unknown, string> = v.pipe(
  v.string("expected 64 hex digits, with colons or without"),
  v.regex(/^[0-9a-f]{2}(:?[0-9a-f]{2}){31}$/i, "expected 64 hex digits, with colons or without"),
);

/** Invalid value in an input such as a configuration. */
export interface Problem {
  /**
   * Path of section names and key name to the value, spelt as in the input. Empty if the input
   * itself is invalid.
   */
  readonly path: readonly string[];
  readonly value: unknown;
  /** Description of the allowed values, such as `expected true, false`. */
  readonly expected: string;
}

/**
 * Validates `input` by `schema` and returns the output of the schema.
 *
 * @param nameOf formats the path of an invalid value for the error message
 * @throws `InvalidArgument` if any value is invalid. Its message lists every invalid key, its value
 * and the allowed values. Its cause is that of {@link problemsError}.
 */
export function parseValues<T>(
  schema: v.GenericSchema<unknown, T>,
  input: unknown,
  nameOf: (path: readonly string[]) => string,
): T {
  const checked = check(schema, input, []);
  if ("value" in checked) return checked.value;
  throw problemsError(
    checked.problems,
    ({ path, value, expected }) => `${nameOf(path)} ${show(value)}: ${expected}`,
    "; ",
  );
}

/**
 * Creates the `InvalidArgument` error for invalid values. Its cause is an `AggregateError` with one
 * `VortexError` per problem, whose cause is the {@link Problem}.
 *
 * @param separator text between the descriptions in the message of the error
 */
export function problemsError<P extends Problem>(
  problems: readonly P[],
  describe: (problem: P) => string,
  separator: string,
): VortexError {
  const errors = problems.map(
    (problem) => new VortexError("InvalidArgument", describe(problem), { cause: problem }),
  );
  const message = errors.map((error) => error.message).join(separator);
  return new VortexError("InvalidArgument", message, {
    cause: new AggregateError(errors, message),
  });
}

/**
 * Validates `input` by `schema`. Returns the output of the schema, or the list of invalid values.
 * Does not throw.
 *
 * @param path path of `input` in the configuration, which precedes the paths in the result
 */
export function check<T>(
  schema: v.GenericSchema<unknown, T>,
  input: unknown,
  path: readonly string[],
): { readonly value: T } | { readonly problems: readonly Problem[] } {
  const result = v.safeParse(schema, input, { abortPipeEarly: true });
  if (result.success) return { value: result.output };
  return {
    problems: result.issues.map((issue) => ({
      path: [...path, ...(issue.path ?? []).map(({ key }) => String(key))],
      value: issue.input,
      expected: issue.message,
    })),
  };
}

function patienceSchema(): v.GenericSchema<unknown, number> {
  const expected =
    "expected 0 for none, or a duration from 1ms to 1d with its unit, such as 60s or 5m";
  return v.pipe(
    v.union([v.string(), v.literal(0)], expected),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const { value } = dataset;
      const milliseconds = value === 0 || value === "0" ? 0 : parseDuration(value);
      if (milliseconds !== undefined && milliseconds <= 24 * 3600 * 1000)
        return Math.round(milliseconds);
      addIssue({ message: expected });
      return NEVER;
    }),
  );
}

function bandwidthSchema(): v.GenericSchema<unknown, number> {
  const message = "expected a rate from 1B in bytes/s, such as 50MB, 50MiB or 50000000";
  return v.pipe(
    v.unknown(),
    v.rawTransform(({ dataset: { value }, addIssue, NEVER }) => {
      const bytes = typeof value === "string" ? parseSize(value) : value;
      if (typeof bytes === "number" && Number.isSafeInteger(bytes) && bytes >= 1) return bytes;
      addIssue({ message });
      return NEVER;
    }),
  );
}

/**
 * Looks up the value at a path of section names and key name. Returns an empty object if a section
 * on the path is absent. Returns a {@link Problem} if a value on the path is not a section.
 */
export function valueAt(
  input: unknown,
  path: readonly string[],
): { readonly value: unknown } | { readonly problem: Problem } | Record<never, never> {
  let section = input;
  for (const [depth, key] of path.entries()) {
    if (section === undefined || section === null) return {};
    if (!isSection(section)) {
      return {
        problem: {
          path: path.slice(0, depth),
          value: section,
          expected: "expected keys with values",
        },
      };
    }
    section = Object.hasOwn(section, key) ? section[key] : undefined;
  }
  return { value: section };
}

/**
 * Returns true if `value` is a configuration section: an object that is neither null nor an array.
 */
export function isSection(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

import * as v from "valibot";
import { VortexError } from "../errors.ts";
import { parseDuration } from "./duration.ts";

/** The longest time that an option takes: 30 days, in milliseconds. */
const LONGEST = 30 * 24 * 3600 * 1000;

/** An integer within `least` and `greatest`. */
export function integer(least: number, greatest: number, what = "an integer"): v.GenericSchema<unknown, number> {
  const expected = `expected ${what} from ${least} to ${greatest}`;
  return v.pipe(
    v.number(expected),
    v.check((value) => Number.isInteger(value) && value >= least && value <= greatest, expected),
  );
}

/** A port; 0 stands for any free one where something listens. */
export const port: v.GenericSchema<unknown, number> = integer(0, 65535, "a port");

/**
 * A duration, in milliseconds. Only text with a unit: stock Dragonfly takes nothing else, and a bare `360` in a file would
 * be seconds to its writer and milliseconds to us.
 */
export const duration: v.GenericSchema<unknown, number> = durationSchema();

/** What is wrong with one value of an input. */
export interface Problem {
  /** The keys that lead to the value, as the input spells them; empty for the input itself. */
  readonly path: readonly string[];
  readonly value: unknown;
  /** What is allowed, `expected …`. */
  readonly expected: string;
}

/**
 * `input` as `schema` reads it.
 * @throws one `InvalidArgument` that names every wrong key, its value and what is allowed; its cause is the
 * {@link Problem} array
 */
export function parseValues<T>(
  schema: v.GenericSchema<unknown, T>,
  input: unknown,
  nameOf: (path: readonly string[]) => string,
): T {
  const result = v.safeParse(schema, input, { abortPipeEarly: true });
  if (result.success) return result.output;
  const problems = result.issues.map(problemOf);
  const message = problems.map(({ path, value, expected }) => `${nameOf(path)} ${show(value)}: ${expected}`).join("; ");
  throw new VortexError("InvalidArgument", message, { cause: problems });
}

function durationSchema(): v.GenericSchema<unknown, number> {
  const expected = "expected a duration from 1ms to 30d with its unit, such as 360s or 1m30s";
  return v.pipe(
    v.string(expected),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const milliseconds = Math.round(parseDuration(dataset.value) ?? 0);
      if (milliseconds >= 1 && milliseconds <= LONGEST) return milliseconds;
      addIssue({ message: expected });
      return NEVER;
    }),
  );
}

function problemOf(issue: v.BaseIssue<unknown>): Problem {
  const path = (issue.path ?? []).map(({ key }) => String(key));
  return { path, value: issue.input, expected: issue.message };
}

/** The value as its writer knows it, short enough for one line. */
function show(value: unknown): string {
  const text = typeof value === "object" && value !== null ? (Array.isArray(value) ? "[…]" : "{…}") : literal(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}

function literal(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/**
 * Checks of arguments and options. A table of type `Checks<Options>` has a check for each field of
 * an options type, so that a field without a check does not compile. Callers without TypeScript get
 * the same errors: `name: expected X, got Y`.
 */
import { VortexError } from "./errors.ts";
import { similarName } from "./spelling.ts";

/** Check of one value. Throws `InvalidArgument` if the value is invalid. */
export interface Check {
  /**
   * @param name name of the value, for the error message
   * @param owner name of the function that takes the value as an option, for the error message
   */
  (name: string, value: unknown, owner?: string): void;
  /** True if the field must have a value. Default false: undefined means the default value. */
  readonly required?: true;
}

/** Table with a check for each field of an options type. */
export type Checks<Options> = Readonly<Record<keyof Options & string, Check>>;

/**
 * Checks an options object: its type, the names of its fields and their values. A field that is
 * undefined counts as absent.
 *
 * @param owner name of the function that takes the options, for the error message
 * @throws `InvalidArgument` if `options` is not an object, or a field is unknown, missing or
 * invalid
 */
export function requireOptions(
  owner: string,
  options: unknown,
  checks: Readonly<Record<string, Check>>,
): void {
  if (!isObject(options)) throw invalid(`options of ${owner}`, "an object", options);
  requireFields(owner, "", options, checks);
}

/** Checks the fields of an object whose path in the options is `prefix`, such as `pool.`. */
function requireFields(
  owner: string,
  prefix: string,
  value: object,
  checks: Readonly<Record<string, Check>>,
): void {
  for (const [name, item] of Object.entries(value)) {
    if (item === undefined || Object.hasOwn(checks, name)) continue;
    const meant = similarName(name, Object.keys(checks));
    const hint = meant === undefined ? "" : `; did you mean "${prefix}${meant}"?`;
    throw new VortexError(
      "InvalidArgument",
      `option of ${owner}: expected a known name, got ${show(prefix + name)}${hint}`,
    );
  }
  requireKnownFields(value, checks, owner, prefix);
}

/**
 * Checks the fields of `value` that are in the table, and ignores all others.
 *
 * @throws `InvalidArgument` if a field is missing or invalid
 */
export function requireKnownFields(
  value: object,
  checks: Readonly<Record<string, Check>>,
  owner?: string,
  prefix = "",
): void {
  for (const [name, check] of Object.entries(checks)) {
    const item: unknown = Reflect.get(value, name);
    if (item !== undefined || check.required) check(prefix + name, item, owner);
  }
}

/** Check for an object with these fields and no others. */
export function fields(checks: Readonly<Record<string, Check>>): Check {
  return (name, value, owner = name) => {
    if (!isObject(value)) throw invalid(name, "an object", value);
    requireFields(owner, `${name}.`, value, checks);
  };
}

/** Check for a field that must have a value. */
export function required(check: Check): Check {
  const strict: Check = (name, value, owner) => check(name, value, owner);
  return Object.assign(strict, { required: true } as const);
}

/** Check for an integer of type number from `min` to `max`, both included. */
export function integer(min: number, max: number = Number.MAX_SAFE_INTEGER): Check {
  return (name, value) => requireInteger(name, value, min, max);
}

/** Check for an integer of type number or bigint from `min` to `max`, both included. */
export function size(min: number, max: number = Number.MAX_SAFE_INTEGER): Check {
  return (name, value) => void toInteger(name, value, min, max);
}

/** Check for one of these values. */
export function oneOf(...values: readonly (string | boolean)[]): Check {
  return (name, value) => {
    if (!values.some((each) => each === value)) throw invalid(name, values.join(" or "), value);
  };
}

/** Check for true or false. */
export const flag: Check = oneOf(true, false);

/** Check for text with at least one character. */
export const text: Check = (name, value) => {
  if (typeof value !== "string" || value === "") throw invalid(name, "non-empty text", value);
};

/** Check for text, which may be empty. */
export const anyText: Check = (name, value) => {
  if (typeof value !== "string") throw invalid(name, "text", value);
};

/** Check for a function. */
export const callback: Check = (name, value) => {
  if (typeof value !== "function") throw invalid(name, "a function", value);
};

/** Check for an AbortSignal, of this realm or another. */
export const abortSignal: Check = (name, value) => {
  if (
    !hasMethods(value, ["addEventListener"]) ||
    typeof Reflect.get(value, "aborted") !== "boolean"
  )
    throw invalid(name, "an AbortSignal", value);
};

/** Check for a `Uint8Array`, such as a `Buffer`. */
export const bytes: Check = (name, value) => {
  if (!(value instanceof Uint8Array)) throw invalid(name, "a Uint8Array", value);
};

/**
 * Check for an object with methods, such as a store.
 *
 * @param what noun for the object, for the error message
 */
export function implementing(what: string, ...methods: readonly string[]): Check {
  return (name, value) => {
    if (!hasMethods(value, methods))
      throw invalid(name, `${what} with ${methods.join(" and ")}`, value);
  };
}

/** Check for an array whose items each pass `check`. */
export function listOf(check: Check): Check {
  return (name, value, owner) => {
    if (!Array.isArray(value)) throw invalid(name, "an array", value);
    for (const [index, item] of value.entries()) check(`${name}[${index}]`, item, owner);
  };
}

/**
 * Check for text, or for an object that passes `check`.
 *
 * @param what noun for the value, for the error message
 */
export function textOr(what: string, check: Check): Check {
  return (name, value, owner) => {
    if (typeof value === "string") text(name, value);
    else if (isObject(value)) check(name, value, owner);
    else throw invalid(name, what, value);
  };
}

/**
 * Checks that `value` is an integer of type number from `min` to `max`, both included.
 *
 * @param name name of the value, for the error message
 * @throws `InvalidArgument` if `value` is not such an integer
 */
export function requireInteger(name: string, value: unknown, min: number, max: number): void {
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max)
    throw invalid(name, `an integer from ${min} to ${max}`, value);
}

/**
 * Returns a number or bigint as a number. The range must be within the safe integers.
 *
 * @param name name of the value, for the error message
 * @throws `InvalidArgument` if `value` is not an integer from `min` to `max`, both included
 */
export function toInteger(name: string, value: unknown, min: number, max: number): number {
  if (typeof value === "bigint" && value >= min && value <= max) return Number(value);
  requireInteger(name, value, min, max);
  // The sum converts -0 to 0.
  return (value as number) + 0;
}

/** Creates the error for an invalid value. */
export function invalid(name: string, expected: string, value: unknown): VortexError {
  return new VortexError("InvalidArgument", `${name}: expected ${expected}, got ${show(value)}`);
}

/** Formats a value for an error message. Shortens it to 80 characters. */
export function show(value: unknown): string {
  const shown = typeof value === "object" && value !== null ? shape(value) : literal(value);
  return shown.length > 80 ? `${shown.slice(0, 77)}…` : shown;
}

function shape(value: object): string {
  return Array.isArray(value) ? "[…]" : "{…}";
}

function literal(value: unknown): string {
  // Only the shown part is converted, since a huge value would take seconds.
  if (typeof value === "string") return JSON.stringify(value.slice(0, 81));
  if (typeof value === "function") return "a function";
  if (typeof value === "bigint")
    return BigInt.asIntN(256, value) === value ? `${value}n` : "a bigint of over 256 bits";
  return String(value);
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Returns true if `value` is an object or a function with these methods. */
export function hasMethods(value: unknown, methods: readonly string[]): value is object {
  return (
    ((typeof value === "object" && value !== null) || typeof value === "function") &&
    methods.every((method) => typeof Reflect.get(value, method) === "function")
  );
}

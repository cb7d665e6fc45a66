import * as v from "valibot";
import { expectedRate, parseRate, parseSize } from "../src/config/size.ts";
import {
  duration,
  fingerprint,
  integer,
  ip as ipAddress,
  parseValues,
  patience,
  port,
} from "../src/config/values.ts";
import { type Digest, parseDigest } from "../src/digest/digest.ts";
import { VortexError } from "../src/errors.ts";
import type { ByteRange, PieceKind, UnverifiedPieces } from "../src/piece.ts";
import { pieceKinds } from "../src/piece.ts";
import type { TaskParent } from "../src/task/task.ts";
import { formatAddress, parseAddress } from "../src/transport/address.ts";
import type { PeerAddress } from "../src/transport/peer-address.ts";
import {
  type Protocol,
  type ProtocolChoice,
  protocolChoices,
  protocols,
} from "../src/transport/protocol.ts";

export { duration, fingerprint, ipAddress, patience };

/** Schema that parses and validates the text of an option to a `T`. */
export type Value<T> = v.GenericSchema<unknown, T>;

/** Returns the schema of an integer from `min` to `max`. `noun` names it in the error message. */
export function count(min: number, max: number, noun?: string): Value<number> {
  return wholeNumber(integer(min, max, noun));
}

/** Port to listen on; 0 for any free port. */
export const portText: Value<number> = wholeNumber(port);

/** Address of a peer as `host:port`. Port 0 is refused. */
export const address: Value<string> = parsed(
  "expected host:port, such as 10.0.0.1:4006 or [::1]:4006",
  parsePeer,
);

/**
 * Address of a peer that serves pieces: `host:port`, or a list such as
 * `quic=host:port,tcp=host:port`.
 */
export const peerAddress: Value<PeerAddress> = parsed(
  "expected host:port, such as 10.0.0.1:4006, or a comma-separated list of quic=, tcp= and grpc= with host:port each",
  (text) => {
    const { addr, apiAddr } = parseParent(text) ?? {};
    return apiAddr === undefined ? addr : undefined;
  },
);

/** Parent of a task: a {@link peerAddress}, `api=host:port` for its Dragonfly API, or both. */
export const parent: Value<TaskParent> = parsed(
  "expected host:port, such as 10.0.0.1:4006, or a comma-separated list of api=, quic=, tcp= and grpc= with host:port each",
  parseParent,
);

/**
 * Size in bytes: a number, or one with a unit of powers of 1000 (kB, MB, GB, TB) or of 1024 (KiB,
 * MiB, GiB, TiB).
 */
export const size: Value<number> = parsed(
  "expected a size, such as 1048576, 4MiB or 50MB",
  parseSize,
);

/** Rate in bytes/s, at least 1: a {@link size} with its unit, with or without `/s`. */
export const rate: Value<number> = parsed(
  (text) => expectedRate(withoutPerSecond(text)),
  (text) => parseRate(withoutPerSecond(text)),
);

/** Byte range `A-B`, inclusive as in HTTP, or `A-` to the end. Parsed to an exclusive `end`. */
export const byteRange: Value<ByteRange> = parsed(
  (text) => expectedRange(text, "A-B or A-"),
  parseByteRange,
);

/** Range of a task: a {@link ByteRange}, or the last `fromEnd` bytes. */
export type TaskRange = ByteRange | { readonly fromEnd: number };

/** Formats a range like its option: `A-B`, `A-` or `-N`. */
export function rangeText(range: TaskRange): string {
  if ("fromEnd" in range) return `-${range.fromEnd}`;
  return `${range.start}-${range.end === undefined ? "" : range.end - 1}`;
}

/** Creates the `InvalidArgument` error for a range outside of a task or piece of `length` bytes. */
export function rangeError(
  range: TaskRange,
  length: number,
  whole: "task" | "piece",
  cause?: unknown,
): VortexError {
  const allowed =
    length === 0
      ? `no range of an empty ${whole}`
      : `a range within 0-${length - 1} of the ${whole}`;
  return new VortexError(
    "InvalidArgument",
    `--range: expected ${allowed}, got ${rangeText(range)}`,
    { cause },
  );
}

/**
 * Replaces the library's error for a range outside of the content by one that names `--range`.
 * Returns other errors as they are.
 */
export function withRangeFlag(
  error: VortexError,
  range: TaskRange | undefined,
  whole: "task" | "piece",
): VortexError {
  if (error.code !== "InvalidArgument" || range === undefined) return error;
  const [, length] = /\brange\.(?:start|end)\b.*(?:to|<=) (\d+)\b/.exec(error.message) ?? [];
  return length === undefined ? error : rangeError(range, Number(length), whole, error);
}

/** Range of a task: a {@link byteRange}, or `-N` for the last N bytes, at least one. */
export const taskRange: Value<TaskRange> = parsed(
  (text) => expectedRange(text, "A-B, A- or -N"),
  (text) => {
    const [, fromEnd] = /^-([0-9]{1,15})$/.exec(text) ?? [];
    if (fromEnd === undefined) return parseByteRange(text);
    return Number(fromEnd) === 0 ? undefined : { fromEnd: Number(fromEnd) };
  },
);

/** Digest of a whole task, such as `sha256:` with 64 hex digits. */
export const digest: Value<Digest> = parsed(
  "expected crc32: and a decimal number, sha256: and 64 hex digits, or sha512: and 128 hex digits",
  parseDigest,
);

/** Task id: 64 printable ASCII characters, the length that a Vortex packet requires. */
export const taskId: Value<string> = parsed(
  "expected 64 printable ASCII characters, such as hex digits",
  (text) => (/^[!-~]{64}$/.test(text) ? text : undefined),
);

/** Protocol choice. */
export const protocol: Value<ProtocolChoice> = v.picklist(
  protocolChoices,
  `expected ${protocolChoices.join(", ")}`,
);

/** Kind of a task. */
export const pieceKind: Value<PieceKind> = v.picklist(
  pieceKinds,
  `expected ${pieceKinds.join(", ")}`,
);

/** Policy for pieces without a digest. */
export const unverifiedPieces: Value<UnverifiedPieces> = v.picklist(
  ["accept", "refuse"],
  "expected accept, refuse",
);

/** Any text: commander passes only strings for options with a value. */
export const text: Value<string> = v.string();

/** Boolean option, false by default. */
export const flag: Value<boolean> = v.optional(v.boolean(), false);

/**
 * Parses a command's options with `schema`.
 * @throws `InvalidArgument` with the option, its value and the allowed values
 */
export function parseOptions<T>(schema: v.GenericSchema<unknown, T>, options: unknown): T {
  return parseValues(
    schema,
    options,
    ([key = ""]) => `--${key.replace(/[A-Z]/g, (upper) => `-${upper.toLowerCase()}`)}`,
  );
}

function wholeNumber(schema: Value<number>): Value<number> {
  return v.pipe(
    v.unknown(),
    v.transform((input) =>
      typeof input === "string" && /^[0-9]{1,15}$/.test(input) ? Number(input) : input,
    ),
    schema,
  );
}

/**
 * Returns a schema that converts text with `parse`. A result of undefined or an error is invalid.
 *
 * @param expected description of the allowed values, or a function of the invalid text
 */
function parsed<T>(
  expected: string | ((text: string) => string),
  parse: (text: string) => T | undefined,
): Value<T> {
  const describe = typeof expected === "string" ? () => expected : expected;
  return v.pipe(
    v.string(({ input }) => describe(String(input))),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const value = attempt(parse, dataset.value);
      if (value !== undefined) return value;
      addIssue({ message: describe(dataset.value) });
      return NEVER;
    }),
  );
}

function withoutPerSecond(rate: string): string {
  return rate.replace(/\/s$/, "");
}

function parsePeer(text: string): string | undefined {
  const parsedAddress = parseAddress(text);
  return parsedAddress.port === 0 ? undefined : formatAddress(parsedAddress);
}

function parseParent(text: string): TaskParent | undefined {
  const found: { [Key in "" | "api" | Protocol]?: string } = {};
  for (const part of text.split(",")) {
    const [, name = "", host = ""] = /^(?:([a-z]+)=)?([^=]*)$/.exec(part) ?? [];
    const key = (["", "api", ...protocols] as const).find((known) => known === name);
    const peer = parsePeer(host);
    if (key === undefined || peer === undefined || found[key] !== undefined) return undefined;
    found[key] = peer;
  }
  const { "": bare, api: apiAddr, ...each } = found;
  const several = Object.keys(each).length > 0;
  if (bare !== undefined && several) return undefined;
  const addr = several ? each : bare;
  return { ...(addr !== undefined && { addr }), ...(apiAddr !== undefined && { apiAddr }) };
}

function expectedRange(text: string, forms: string): string {
  if (/^[0-9]*-[0-9]*$/.test(text) && /[0-9]{16}/.test(text))
    return "expected positions of at most 15 digits; omit the end of a range to the end";
  return /^-0+$/.test(text)
    ? "expected a range of at least one byte"
    : `expected ${forms}, such as 0-1023`;
}

function parseByteRange(text: string): ByteRange | undefined {
  const [, first, last] = /^([0-9]{1,15})-([0-9]{0,15})$/.exec(text) ?? [];
  if (first === undefined || last === undefined) return undefined;
  if (last === "") return { start: Number(first) };
  return Number(last) < Number(first) ? undefined : { start: Number(first), end: Number(last) + 1 };
}

function attempt<T>(parse: (text: string) => T | undefined, input: string): T | undefined {
  try {
    return parse(input);
  } catch {
    return undefined;
  }
}

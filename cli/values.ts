import * as v from "valibot";
import { parseSize } from "../src/config/size.ts";
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
import type { ByteRange, PieceKind } from "../src/piece.ts";
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

/** A value of an option, out of the text of the command line. */
export type Value<T> = v.GenericSchema<unknown, T>;

/** A whole number within `least` and `greatest`. */
export function count(least: number, greatest: number, what?: string): Value<number> {
  return wholeNumber(integer(least, greatest, what));
}

/** A port to listen on; 0 for any free one. */
export const portText: Value<number> = wholeNumber(port);

/** `host:port` of a peer. */
export const address: Value<string> = parsed(
  "expected host:port, such as 10.0.0.1:4006 or [::1]:4006",
  parsePeer,
);

/** A peer to fetch a piece from: `host:port`, or `quic=`, `tcp=` and `grpc=` with one each and commas between them. */
export const peerAddress: Value<PeerAddress> = parsed(
  "expected host:port, such as 10.0.0.1:4006, or quic=, tcp= and grpc=, each with host:port, and commas between them",
  (text) => {
    const { addr, apiAddr } = parseParent(text) ?? {};
    return apiAddr === undefined ? addr : undefined;
  },
);

/** A peer to fetch a task from: a {@link peerAddress}, `api=host:port` for the Dragonfly API, or both. */
export const parent: Value<TaskParent> = parsed(
  "expected host:port, such as 10.0.0.1:4006, or api=, quic=, tcp= and grpc=, each with host:port, and commas between them",
  parseParent,
);

/** Bytes, as a number or with a unit: powers of 1000 (kB, MB, GB, TB) or of 1024 (KiB, MiB, GiB, TiB). */
export const size: Value<number> = parsed(
  "expected a size, such as 1048576, 4MiB or 50MB",
  parseSize,
);

/** Bytes a second, as a size with or without `/s`. */
export const rate: Value<number> = parsed("expected a rate, such as 50MB/s", (text) => {
  const bytes = parseSize(text.replace(/\/s$/, ""));
  return bytes === 0 ? undefined : bytes;
});

/** Bytes `A` to `B`, the last included as in HTTP, or `A-` for all from there on. */
export const byteRange: Value<ByteRange> = parsed(
  "expected A-B or A-, such as 0-1023",
  parseByteRange,
);

/** Bytes of a task: a {@link ByteRange}, or so many from its end. */
export type TaskRange = ByteRange | { readonly fromEnd: number };

/** A range as the command line has it. */
export function rangeText(range: TaskRange): string {
  if ("fromEnd" in range) return `-${range.fromEnd}`;
  return `${range.start}-${range.end === undefined ? "" : range.end - 1}`;
}

/** The error for a range that lies outside of a task or piece of `length` bytes. */
export function outsideError(
  range: TaskRange,
  length: number,
  whole: "task" | "piece",
  cause?: unknown,
): VortexError {
  const allowed =
    length === 0
      ? `none, the ${whole} is empty`
      : `a range within 0-${length - 1}, the bytes of the ${whole}`;
  return new VortexError("InvalidArgument", `--range ${rangeText(range)}: expected ${allowed}`, {
    cause,
  });
}

/** `error` in the words of the command line, where it is about the range: the library knows its own names only. */
export function inOptions(
  error: VortexError,
  range: TaskRange | undefined,
  whole: "task" | "piece",
): VortexError {
  if (error.code !== "InvalidArgument" || range === undefined) return error;
  const [, length] = /\brange\.(?:start|end)\b.*(?:to|<=) (\d+)\b/.exec(error.message) ?? [];
  return length === undefined ? error : outsideError(range, Number(length), whole, error);
}

/** As {@link byteRange}, or `-N` for the last N bytes. */
export const taskRange: Value<TaskRange> = parsed(
  "expected A-B, A- or -N, such as 0-1023",
  (text) => {
    const [, fromEnd] = /^-([0-9]{1,15})$/.exec(text) ?? [];
    return fromEnd === undefined ? parseByteRange(text) : { fromEnd: Number(fromEnd) };
  },
);

/** A digest of a whole task. */
export const digest: Value<Digest> = parsed(
  "expected crc32: and a decimal number, sha256: and 64 hex digits, or sha512: and 128 hex digits",
  parseDigest,
);

/** A task id as it fits into a Vortex packet. */
export const taskId: Value<string> = parsed(
  "expected 64 printable ASCII characters, such as hex digits",
  (text) => (/^[!-~]{64}$/.test(text) ? text : undefined),
);

/** A protocol. */
export const protocol: Value<ProtocolChoice> = v.picklist(
  protocolChoices,
  `expected ${protocolChoices.join(", ")}`,
);

/** A kind of piece. */
export const pieceKind: Value<PieceKind> = v.picklist(
  pieceKinds,
  `expected ${pieceKinds.join(", ")}`,
);

/** Any text; commander leaves nothing else in an option with a value. */
export const text: Value<string> = v.string();

/** A flag. */
export const flag: Value<boolean> = v.optional(v.boolean(), false);

/**
 * A command's options as `schema` reads them.
 * @throws `InvalidArgument` that names the option, its value and what is allowed
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

/** Text that `parse` makes sense of; undefined or an error means that it does not. */
function parsed<T>(expected: string, parse: (text: string) => T | undefined): Value<T> {
  return v.pipe(
    v.string(expected),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const value = attempt(parse, dataset.value);
      if (value !== undefined) return value;
      addIssue({ message: expected });
      return NEVER;
    }),
  );
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

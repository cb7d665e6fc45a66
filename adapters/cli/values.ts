import * as v from "valibot";
import { duration, integer, parseValues, port } from "../../src/config/values.ts";
import { type Digest, parseDigest } from "../../src/digest/digest.ts";
import type { ByteRange, PieceKind } from "../../src/piece.ts";
import { pieceKinds } from "../../src/piece.ts";
import { formatAddress, parseAddress } from "../../src/transport/address.ts";
import { type Protocol, protocols } from "../../src/transport/protocol.ts";

export { duration };

/** A value of an option, out of the text of the command line. */
export type Value<T> = v.GenericSchema<unknown, T>;

/** A whole number within `least` and `greatest`. */
export function count(least: number, greatest: number, what?: string): Value<number> {
  return wholeNumber(integer(least, greatest, what));
}

/** A port to listen on; 0 for any free one. */
export const portText: Value<number> = wholeNumber(port);

/** `host:port` of a peer. */
export const address: Value<string> = parsed("expected host:port, such as 10.0.0.1:4006 or [::1]:4006", (text) => {
  const parsedAddress = parseAddress(text);
  return parsedAddress.port === 0 ? undefined : formatAddress(parsedAddress);
});

/** Bytes, as a number or with a unit: powers of 1000 (kB, MB, GB, TB) or of 1024 (KiB, MiB, GiB, TiB). */
export const size: Value<number> = parsed("expected a size, such as 1048576, 4MiB or 50MB", parseSize);

/** Bytes a second, as a size with or without `/s`. */
export const rate: Value<number> = parsed("expected a rate, such as 50MB/s", (text) => {
  const bytes = parseSize(text.replace(/\/s$/, ""));
  return bytes === 0 ? undefined : bytes;
});

/** Bytes `A` to `B`, the last included as in HTTP, or `A-` for all from there on. */
export const byteRange: Value<ByteRange> = parsed("expected A-B or A-, such as 0-1023", (text) => {
  const [, first, last] = /^([0-9]{1,15})-([0-9]{0,15})$/.exec(text) ?? [];
  if (first === undefined || last === undefined) return undefined;
  if (last === "") return { start: Number(first) };
  return Number(last) < Number(first) ? undefined : { start: Number(first), end: Number(last) + 1 };
});

/** A digest of a whole task. */
export const digest: Value<Digest> = parsed(
  "expected crc32: and a decimal number, or sha256: or sha512: and hex digits",
  parseDigest,
);

/** A task id as it fits into a Vortex packet. */
export const taskId: Value<string> = parsed("expected 64 printable ASCII characters, such as hex digits", (text) =>
  /^[!-~]{64}$/.test(text) ? text : undefined,
);

/** SHA-256 of a certificate. */
export const fingerprint: Value<string> = parsed("expected 64 hex digits, with colons or without", (text) =>
  /^[0-9a-f]{2}(:?[0-9a-f]{2}){31}$/i.test(text) ? text : undefined,
);

/** A protocol. */
export const protocol: Value<Protocol> = v.picklist(protocols, `expected ${protocols.join(", ")}`);

/** A kind of piece. */
export const pieceKind: Value<PieceKind> = v.picklist(pieceKinds, `expected ${pieceKinds.join(", ")}`);

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
    v.transform((input) => (typeof input === "string" && /^[0-9]{1,15}$/.test(input) ? Number(input) : input)),
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

function attempt<T>(parse: (text: string) => T | undefined, input: string): T | undefined {
  try {
    return parse(input);
  } catch {
    return undefined;
  }
}

const units: Record<string, number> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

function parseSize(input: string): number | undefined {
  const [, amount, unit = ""] = /^([0-9]{1,15}(?:\.[0-9]+)?) ?([A-Za-z]*)$/.exec(input) ?? [];
  const factor = Object.hasOwn(units, unit.toLowerCase()) ? units[unit.toLowerCase()] : undefined;
  if (amount === undefined || factor === undefined) return undefined;
  const bytes = Math.round(Number(amount) * factor);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

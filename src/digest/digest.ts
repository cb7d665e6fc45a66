import { peersWords, VortexError } from "../errors.ts";
import type { DigestAlgorithm, HasherFactory } from "./hasher.ts";

/** A digest as Dragonfly writes it, taken apart. */
export interface Digest {
  /** What it is made by. */
  readonly algorithm: DigestAlgorithm;
  /** crc32: unsigned decimal; sha256 and sha512: lower-case hex. */
  readonly encoded: string;
}

const shapes: Record<DigestAlgorithm, RegExp> = {
  crc32: /^(0|[1-9][0-9]{0,9})$/,
  sha256: /^[0-9a-f]{64}$/,
  sha512: /^[0-9a-f]{128}$/,
};

/** The form of what follows the colon, for messages. */
const forms: Record<DigestAlgorithm, string> = {
  crc32: "an unsigned 32-bit decimal number",
  sha256: "64 hex digits",
  sha512: "128 hex digits",
};

/**
 * Takes `algorithm:encoded` apart.
 * @throws `InvalidArgument` for another algorithm or a malformed value
 */
export function parseDigest(text: string): Digest {
  const colon = text.indexOf(":");
  const algorithm = text.slice(0, colon);
  if (!isAlgorithm(algorithm)) {
    throw new VortexError(
      "InvalidArgument",
      `digest "${clip(text)}": expected crc32:, sha256: or sha512:`,
    );
  }
  const raw = text.slice(colon + 1);
  const encoded = algorithm === "crc32" ? raw : raw.toLowerCase();
  if (!shapes[algorithm].test(encoded) || (algorithm === "crc32" && Number(encoded) > 0xffffffff)) {
    const message = `digest "${clip(text)}": expected ${forms[algorithm]} after "${algorithm}:"`;
    throw new VortexError("InvalidArgument", message);
  }
  return { algorithm, encoded };
}

/** `algorithm:encoded` over whole `content`, as {@link parseDigest} reads it. */
export function digestOf(
  algorithm: DigestAlgorithm,
  content: Uint8Array,
  hashers: HasherFactory,
): string {
  const hasher = hashers(algorithm);
  hasher.update(content);
  return `${algorithm}:${hasher.encode()}`;
}

function isAlgorithm(name: string): name is DigestAlgorithm {
  return Object.hasOwn(shapes, name);
}

/** Text that may be a peer's, short enough for a message. */
function clip(text: string): string {
  return `${peersWords(text, 80)}${text.length > 80 ? "…" : ""}`;
}

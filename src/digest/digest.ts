import { remoteText, VortexError } from "../errors.ts";
import type { DigestAlgorithm, HasherFactory } from "./hasher.ts";

/** Parsed digest in Dragonfly's format. */
export interface Digest {
  /** Hash algorithm. */
  readonly algorithm: DigestAlgorithm;
  /** Encoded hash value. crc32: unsigned decimal; sha256 and sha512: lower-case hex. */
  readonly encoded: string;
}

const patterns: Record<DigestAlgorithm, RegExp> = {
  crc32: /^(0|[1-9][0-9]{0,9})$/,
  sha256: /^[0-9a-f]{64}$/,
  sha512: /^[0-9a-f]{128}$/,
};

/** Description of the encoded value by algorithm, for messages. */
const descriptions: Record<DigestAlgorithm, string> = {
  crc32: "an unsigned 32-bit decimal number",
  sha256: "64 hex digits",
  sha512: "128 hex digits",
};

/**
 * Parses a digest of the form `algorithm:encoded`.
 *
 * @throws `InvalidArgument` for an unknown algorithm or a malformed value
 */
export function parseDigest(text: string): Digest {
  const colon = text.indexOf(":");
  const algorithm = text.slice(0, colon);
  if (!isAlgorithm(algorithm)) {
    throw new VortexError(
      "InvalidArgument",
      `digest: expected crc32:, sha256: or sha512:, got "${clip(text)}"`,
    );
  }
  const raw = text.slice(colon + 1);
  const encoded = algorithm === "crc32" ? raw : raw.toLowerCase();
  const wellFormed = patterns[algorithm].test(encoded);
  if (!wellFormed || (algorithm === "crc32" && Number(encoded) > 0xffffffff)) {
    throw new VortexError(
      "InvalidArgument",
      `digest: expected ${descriptions[algorithm]} after "${algorithm}:", got "${clip(text)}"`,
    );
  }
  return { algorithm, encoded };
}

/** Computes the digest of `content`, as `algorithm:encoded`. */
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
  return Object.hasOwn(patterns, name);
}

/** Shortens text that may come from a peer, for a message. */
function clip(text: string): string {
  return `${remoteText(text, 80)}${text.length > 80 ? "…" : ""}`;
}

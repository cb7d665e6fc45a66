import { remoteText, VortexError } from "../errors.ts";
import type { DigestAlgorithm, HasherFactory } from "./hasher.ts";

/** Digest in Dragonfly's format `algorithm:encoded`, split into its two parts. */
export interface Digest {
  /** Name of the hash algorithm. */
  readonly algorithm: DigestAlgorithm;
  /**
   * Hash value as text. For crc32 an unsigned decimal number; for sha256 and sha512 lower-case hex
   * digits.
   */
  readonly encoded: string;
}

const patterns: Record<DigestAlgorithm, RegExp> = {
  crc32: /^(0|[1-9][0-9]{0,9})$/,
  sha256: /^[0-9a-f]{64}$/,
  sha512: /^[0-9a-f]{128}$/,
};

/** Description of the valid hash values of each algorithm, for error messages. */
const descriptions: Record<DigestAlgorithm, string> = {
  crc32: "an unsigned 32-bit decimal number",
  sha256: "64 hex digits",
  sha512: "128 hex digits",
};

/**
 * Parses a digest in Dragonfly's format `algorithm:encoded`, such as `crc32:123` or `sha256:…`.
 *
 * @throws `InvalidArgument` if the algorithm is unknown, or the hash value does not have its format
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

/** Hashes `content`, and returns the digest in the form `algorithm:encoded`. */
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

/**
 * Makes text from a peer safe for an error message: shortens it to 80 characters and replaces
 * control characters.
 */
function clip(text: string): string {
  return `${remoteText(text, 80)}${text.length > 80 ? "…" : ""}`;
}

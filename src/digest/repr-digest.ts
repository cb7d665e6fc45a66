import { VortexError } from "../errors.ts";
import { parseDigest } from "./digest.ts";

/**
 * `Repr-Digest` (RFC 9530): how HTTP headers tell the digest of a whole content. StatLocalTask has no field for it, and
 * passes headers on.
 */
export const REPR_DIGEST = "repr-digest";

const names = { sha256: "sha-256", sha512: "sha-512" } as const;

/** The header's value for `sha256:…` or `sha512:…`; undefined for other digests, which the RFC has no name for. */
export function reprDigestOf(digest: string): string | undefined {
  const { algorithm, encoded } = parseDigest(digest);
  if (algorithm === "crc32") return undefined;
  const bytes = encoded.replaceAll(/../g, (hex) => String.fromCharCode(Number.parseInt(hex, 16)));
  return `${names[algorithm]}=:${btoa(bytes)}:`;
}

/** The first digest of a header's value that this library checks, as `algorithm:encoded`; undefined when there is none. */
export function digestOfHeader(value: string): string | undefined {
  for (const [algorithm, name] of Object.entries(names)) {
    const encoded = new RegExp(`(?:^|[,\\s])${name}=:([A-Za-z0-9+/=]{1,128}):`).exec(value)?.[1];
    const digest = encoded === undefined ? undefined : hexDigest(algorithm, encoded);
    if (digest !== undefined) return digest;
  }
  return undefined;
}

function hexDigest(algorithm: string, base64: string): string | undefined {
  try {
    const hex = Array.from(atob(base64), (character) =>
      character.charCodeAt(0).toString(16).padStart(2, "0"),
    ).join("");
    return parseDigest(`${algorithm}:${hex}`) && `${algorithm}:${hex}`;
  } catch (error) {
    // A peer's malformed header tells nothing.
    if (error instanceof VortexError || error instanceof DOMException) return undefined;
    throw error;
  }
}

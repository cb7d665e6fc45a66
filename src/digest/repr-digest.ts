import { VortexError } from "../errors.ts";
import { parseDigest } from "./digest.ts";

/**
 * Name of the HTTP header `Repr-Digest` (RFC 9530). This library sends the digest of a task's
 * content in it, because the gRPC response of StatLocalTask has no field for a digest.
 */
export const REPR_DIGEST = "repr-digest";

const names = { sha256: "sha-256", sha512: "sha-512" } as const;

/**
 * Formats a digest `sha256:…` or `sha512:…` as a value of the HTTP header `Repr-Digest`. Returns
 * undefined for a crc32 digest, because RFC 9530 does not define an algorithm name for it.
 *
 * @throws `InvalidArgument` if `digest` is malformed
 */
export function reprDigestOf(digest: string): string | undefined {
  const { algorithm, encoded } = parseDigest(digest);
  if (algorithm === "crc32") return undefined;
  const bytes = encoded.replaceAll(/../g, (hex) => String.fromCharCode(Number.parseInt(hex, 16)));
  return `${names[algorithm]}=:${btoa(bytes)}:`;
}

/**
 * Extracts a digest from a value of the HTTP header `Repr-Digest`, and returns it in the form
 * `algorithm:encoded`. If the header contains both, returns the sha256 digest rather than sha512.
 * Returns undefined if it contains no well-formed digest of either algorithm.
 */
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
    // Treat a malformed header from a peer as absent.
    if (error instanceof VortexError || error instanceof DOMException) return undefined;
    throw error;
  }
}

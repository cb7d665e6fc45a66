import { VortexError } from "../errors.ts";
import { parseDigest } from "./digest.ts";

/**
 * Name of the HTTP header `Repr-Digest` (RFC 9530). It carries the digest of a task's content in
 * the headers of a gRPC answer, because StatLocalTask has no field for it.
 */
export const REPR_DIGEST = "repr-digest";

const names = { sha256: "sha-256", sha512: "sha-512" } as const;

/**
 * Formats a digest `sha256:…` or `sha512:…` as the value of the header. Returns undefined for
 * crc32, which has no name in the RFC.
 */
export function reprDigestOf(digest: string): string | undefined {
  const { algorithm, encoded } = parseDigest(digest);
  if (algorithm === "crc32") return undefined;
  const bytes = encoded.replaceAll(/../g, (hex) => String.fromCharCode(Number.parseInt(hex, 16)));
  return `${names[algorithm]}=:${btoa(bytes)}:`;
}

/**
 * Extracts a digest from the value of the header, as `algorithm:encoded`. Prefers sha256 over
 * sha512. Returns undefined if neither is present and well-formed.
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

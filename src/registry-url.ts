/**
 * URLs of blobs and manifests in an OCI registry, and the digests in them. Source: dragonfly-client
 * 1.5.10 and 1.5.2, `dragonfly-client-util/src/digest`.
 */

/** Text in a URL that precedes the digest of a blob or the reference of a manifest. */
export type RegistryPath = "/blobs/" | "/manifests/";

/**
 * Returns the reference at the end of a registry URL, `…://…/v2/<name><path><reference>`, without
 * the query. Returns undefined if the URL does not have this form.
 *
 * Equivalent to the first match of the regular expression in dfdaemon. That expression is greedy,
 * so the last occurrence of each part counts. In JavaScript it would take polynomial time for the
 * URLs of hostile peers.
 */
export function registryReference(url: string, path: RegistryPath): string | undefined {
  // The parts before the reference are on one line, and so is the query.
  const firstLine = url.split("\n", 1)[0] ?? "";
  const lastBreak = url.lastIndexOf("\n");
  for (let at = firstLine.lastIndexOf(path); at > 0; at = firstLine.lastIndexOf(path, at - 1)) {
    const start = at + path.length;
    const queryAt = url.indexOf("?", start);
    const end = queryAt < 0 ? url.length : queryAt;
    if (lastBreak > end) return undefined;
    if (end > start) return hasPrefix(url, at) ? url.slice(start, end) : undefined;
  }
  return undefined;
}

/** Returns true if the text of a URL before `end` has the form `…://…/v2/…`. */
function hasPrefix(url: string, end: number): boolean {
  const v2 = "/v2/";
  const at = end < v2.length ? -1 : url.lastIndexOf(v2, end - v2.length);
  return at >= 3 && url.lastIndexOf("://", at - 3) >= 0;
}

/**
 * Returns the encoded part of a digest `algorithm:encoded`. Returns undefined if the algorithm is
 * unknown, or the encoded part has another length than the algorithm requires. Like in dfdaemon,
 * its characters are not checked.
 *
 * @param crc32Length required length of a CRC-32 digest in bytes. Default: every length above 0
 */
export function encodedDigest(digest: string, crc32Length?: number): string | undefined {
  const colon = digest.indexOf(":");
  const encoded = digest.slice(colon + 1);
  const { length } = new TextEncoder().encode(encoded);
  switch (digest.slice(0, Math.max(colon, 0))) {
    case "crc32":
      return (crc32Length === undefined ? length > 0 : length === crc32Length)
        ? encoded
        : undefined;
    case "sha256":
      return length === 64 ? encoded : undefined;
    case "sha512":
      return length === 128 ? encoded : undefined;
    default:
      return undefined;
  }
}

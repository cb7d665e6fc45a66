import { sha256, sha512 } from "@noble/hashes/sha2.js";
import crc32 from "crc-32";

/** Hash algorithms of digests in Dragonfly that this library can compute. */
export type DigestAlgorithm = "crc32" | "sha256" | "sha512";

/** Incremental hash computation over a sequence of chunks. */
export interface Hasher {
  /** Adds the bytes of `chunk` to the hash. The caller may reuse `chunk` after the call. */
  update(chunk: Uint8Array): void;
  /**
   * Returns the hash of all bytes passed to {@link update} so far. A crc32 is an unsigned decimal
   * number; SHA values are lower-case hex digits. Further calls of {@link update} may follow.
   */
  encode(): string;
}

/** Function that creates a {@link Hasher} for a hash algorithm. */
export type HasherFactory = (algorithm: DigestAlgorithm) => Hasher;

/**
 * Function that continues a CRC-32 (IEEE 802.3, as in zlib). Takes the next bytes and the CRC of
 * all bytes before them, 0 at the start. Returns the CRC of both together.
 */
export type Crc32 = (chunk: Uint8Array, value: number) => number;

/** Creates hashers in plain JavaScript, for runtimes that have no native hash functions. */
export const portableHashers: HasherFactory = (algorithm) => {
  if (algorithm === "crc32") return crc32Hasher((chunk, value) => crc32.buf(chunk, value) >>> 0);
  const hash = algorithm === "sha256" ? sha256.create() : sha512.create();
  return {
    update: (chunk) => {
      hash.update(chunk);
    },
    encode: () =>
      Array.from(hash.clone().digest(), (byte) => byte.toString(16).padStart(2, "0")).join(""),
  };
};

/** Creates a {@link Hasher} for crc32 that calls the function `crc` for each chunk. */
export function crc32Hasher(crc: Crc32): Hasher {
  let value = 0;
  return {
    update: (chunk) => {
      value = crc(chunk, value);
    },
    encode: () => String(value),
  };
}

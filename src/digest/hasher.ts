import { sha256, sha512 } from "@noble/hashes/sha2.js";
import crc32 from "crc-32";

/** Hash algorithms of piece and task digests in Dragonfly that this library can verify. */
export type DigestAlgorithm = "crc32" | "sha256" | "sha512";

/** Incremental hash computation. */
export interface Hasher {
  /** Hashes the next bytes. Keeps no reference to `chunk`. */
  update(chunk: Uint8Array): void;
  /**
   * Returns the hash of all bytes so far in Dragonfly's encoding: crc32 as an unsigned decimal
   * number, SHA as lower-case hex digits. More updates may follow.
   */
  encode(): string;
}

/** Creates a {@link Hasher} for an algorithm. */
export type HasherFactory = (algorithm: DigestAlgorithm) => Hasher;

/**
 * Updates a CRC-32 (IEEE 802.3, as in zlib) with `chunk`. `value` is the CRC so far, 0 at first.
 */
export type Crc32 = (chunk: Uint8Array, value: number) => number;

/** Hashers in plain JavaScript, for runtimes without native ones. */
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

/** Creates a crc32 {@link Hasher} from a CRC-32 function. */
export function crc32Hasher(crc: Crc32): Hasher {
  let value = 0;
  return {
    update: (chunk) => {
      value = crc(chunk, value);
    },
    encode: () => String(value),
  };
}

import { sha256, sha512 } from "@noble/hashes/sha2.js";
import crc32 from "crc-32";

/** Digest algorithms that Dragonfly names for pieces and tasks and that this library checks. */
export type DigestAlgorithm = "crc32" | "sha256" | "sha512";

/** An incremental hash. */
export interface Hasher {
  /** Takes the next bytes in; they are not kept. */
  update(chunk: Uint8Array): void;
  /** The digest so far as Dragonfly writes it: crc32 as an unsigned decimal number, the sha family as hex digits. */
  encode(): string;
}

/** Makes a {@link Hasher} for an algorithm. */
export type HasherFactory = (algorithm: DigestAlgorithm) => Hasher;

/** CRC-32 (IEEE, as zlib's) of `chunk`, going on from `value`. */
export type Crc32 = (chunk: Uint8Array, value: number) => number;

/** Hashes in plain JavaScript, for runtimes without native ones. */
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

/** A {@link Hasher} over any CRC-32 function. */
export function crc32Hasher(crc: Crc32): Hasher {
  let value = 0;
  return {
    update: (chunk) => {
      value = crc(chunk, value);
    },
    encode: () => String(value),
  };
}

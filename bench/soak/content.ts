/**
 * Content that is served and fetched under load. Every process computes the same bytes, so that
 * each can verify what it receives.
 */
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { digestOf } from "../../src/digest/digest.ts";

/** Id of the task. */
export const TASK_ID: string = "50".repeat(32);
/** Length of each piece except the last, in bytes. */
export const PIECE_LENGTH: number = 64 * 1024;
/** Content of the task: 24 pieces, the last one shorter. */
export const CONTENT: Uint8Array = noise(24 * PIECE_LENGTH - 1234);
/** Digest of the content. */
export const DIGEST: string = digestOf("sha256", CONTENT, nativeHashers);
/** Number of pieces. */
export const PIECE_COUNT: number = Math.ceil(CONTENT.length / PIECE_LENGTH);

/** Returns the expected bytes of a piece, or of a range of it. */
export function pieceBytes(number: number, start = 0, end: number = PIECE_LENGTH): Uint8Array {
  const offset = number * PIECE_LENGTH;
  return CONTENT.subarray(offset + start, Math.min(offset + end, CONTENT.length));
}

/** Returns a generator of numbers from 0 to 1 (mulberry32), reproducible by its seed. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Returns pseudo-random bytes. */
export function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const random = seededRandom(seed);
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at++) bytes[at] = random() * 256;
  return bytes;
}

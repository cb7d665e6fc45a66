/** What is served and fetched under load: the same bytes in every process, so that each can tell right ones from wrong ones. */
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { digestOf } from "../../src/digest/digest.ts";

/** The task. */
export const TASK_ID: string = "50".repeat(32);
/** Bytes of each piece but the last. */
export const PIECE_LENGTH: number = 64 * 1024;
/** The content: 24 pieces, the last one short. */
export const CONTENT: Uint8Array = noise(24 * PIECE_LENGTH - 1234);
/** Its digest. */
export const DIGEST: string = digestOf("sha256", CONTENT, nativeHashers);
/** Number of its pieces. */
export const PIECE_COUNT: number = Math.ceil(CONTENT.length / PIECE_LENGTH);

/** The right bytes of a piece, or of a part of it. */
export function pieceBytes(number: number, start = 0, end: number = PIECE_LENGTH): Uint8Array {
  const offset = number * PIECE_LENGTH;
  return CONTENT.subarray(offset + start, Math.min(offset + end, CONTENT.length));
}

/** Numbers from 0 to 1 (mulberry32), the same for the same seed. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Bytes that look random. */
export function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const random = seededRandom(seed);
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at++) bytes[at] = random() * 256;
  return bytes;
}

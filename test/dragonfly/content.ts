/** Content of a task in a file, with its digest. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { seededBytes } from "../support/random.ts";

const BLOCK_LENGTH = 1024 * 1024;

/** File with pseudo-random content. */
export interface Content {
  readonly path: string;
  /** Length in bytes. */
  readonly length: number;
  /** SHA-256 in hexadecimal. */
  readonly sha256: string;
}

/** Writes a file of `length` bytes. Each seed yields different content. */
export async function writeContent(path: string, length: number, seed: number): Promise<Content> {
  const hash = createHash("sha256");
  const block = seededBytes(seed, BLOCK_LENGTH);
  const numbers = new DataView(block.buffer);
  const file = await open(path, "w");
  try {
    for (let at = 0; at < length; at += BLOCK_LENGTH) {
      // Blocks differ, so that no piece equals another.
      numbers.setUint32(0, at / BLOCK_LENGTH);
      const part = block.subarray(0, Math.min(BLOCK_LENGTH, length - at));
      hash.update(part);
      await file.write(part);
    }
  } finally {
    await file.close();
  }
  return { path, length, sha256: hash.digest("hex") };
}

/** Returns the SHA-256 of a file in hexadecimal. */
export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: BLOCK_LENGTH }))
    hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

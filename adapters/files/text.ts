import { readFile } from "node:fs/promises";
import { VortexError } from "../../src/errors.ts";

/** A small file's text. Rejects with `StorageFailed`. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw VortexError.from(error, "StorageFailed", `${path} cannot be read`);
  }
}

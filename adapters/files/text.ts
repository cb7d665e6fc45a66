import { readFile } from "node:fs/promises";
import { storageError } from "./storage-error.ts";

/** A small file's text. Rejects with `StorageFailed`. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw storageError(error, `${path} cannot be read`);
  }
}

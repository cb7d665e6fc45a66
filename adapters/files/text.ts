import { readFile } from "node:fs/promises";
import { storageError } from "./storage-error.ts";

/** Reads a complete file as UTF-8 text. Rejects with `StorageFailed` if the file cannot be read. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw storageError(error, `cannot read ${path}`);
  }
}

import type { BigIntStats } from "node:fs";
import { type FileHandle, open, readFile, realpath, rename, unlink } from "node:fs/promises";
import { isGranted } from "../shared/permission.ts";
import { writeFully } from "./own-file.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Bytes that are copied at a time. */
const CHUNK = 1024 * 1024;

/**
 * Gives the file `from` the name `to`, over the file of that name. A file that cannot be replaced, as one that is mounted by itself
 * into a container, gets the content of `from` instead, and `from` is removed: it is not whole until this resolves.
 * Returns the stats of a file that was written so, and undefined after a rename.
 *
 * @param renaming for tests
 */
export async function replaceFile(
  from: string,
  to: string,
  renaming: typeof rename = rename,
): Promise<BigIntStats | undefined> {
  try {
    await renaming(from, to);
    return undefined;
  } catch (error) {
    if (!isIrreplaceable(error)) throw error;
  }
  const stats = await copy(from, to);
  await unlink(from);
  return stats;
}

/** Returns whether a rename failed since one of the names cannot be given to another file. */
export function isIrreplaceable(error: unknown): boolean {
  return ["EBUSY", "EXDEV"].includes(codeOf(error));
}

/**
 * Rejects with `StorageFailed` when `path` is a mount point that cannot be written to: replacing it would fail only when all else is
 * done. Says nothing where the system does not tell its mounts.
 */
export async function requireReplaceable(path: string): Promise<void> {
  if (!(await isMountPoint(path))) return;
  try {
    await (await open(path, "r+")).close();
  } catch (error) {
    throw storageError(error, `${path} is a mount point, so it must be writable in place`);
  }
}

async function copy(from: string, to: string): Promise<BigIntStats> {
  const source = await open(from, "r");
  try {
    const target = await open(to, "w");
    try {
      await copyContent(source, target);
      await target.sync();
      return await target.stat({ bigint: true });
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

async function copyContent(source: FileHandle, target: FileHandle): Promise<void> {
  const buffer = new Uint8Array(CHUNK);
  for (let position = 0; ; ) {
    const { bytesRead } = await source.read(buffer, 0, CHUNK, position);
    if (bytesRead === 0) return;
    await writeFully(target, buffer.subarray(0, bytesRead), position);
    position += bytesRead;
  }
}

async function isMountPoint(path: string): Promise<boolean> {
  if (!isGranted({ name: "read" })) return false;
  const mounts = await readFile("/proc/self/mountinfo", "utf8").catch(() => "");
  const real = await realpath(path).catch(() => undefined);
  return real !== undefined && mounts.split("\n").some((line) => mountPointOf(line) === real);
}

/** Field 5 of a line of proc_pid_mountinfo(5), in which space, tab, newline and backslash are octal. */
function mountPointOf(line: string): string | undefined {
  return line
    .split(" ")[4]
    ?.replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));
}

import type { BigIntStats } from "node:fs";
import { type FileHandle, open, readFile, realpath, rename, unlink } from "node:fs/promises";
import { isGranted } from "../shared/permission.ts";
import { writeFully } from "./own-file.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Size of the copy buffer, in bytes. */
const COPY_BUFFER_BYTES = 1024 * 1024;

/**
 * Renames `from` to `to`, which replaces an existing file.
 *
 * A target that cannot be replaced, such as a bind mount in a container, is overwritten with the
 * content of `from`, and `from` is removed. That is not atomic: the target is incomplete until this
 * resolves. Resolves to the stats of an overwritten target, or undefined after a rename.
 *
 * @param renameFile replacement of `rename`, for tests
 * @param beforeWrite called before each write to the target, and before `from` is removed. If it
 * rejects, so does this function, and writes no more
 */
export async function replaceFile(
  from: string,
  to: string,
  renameFile: typeof rename = rename,
  beforeWrite: () => Promise<void> = async () => {},
): Promise<BigIntStats | undefined> {
  try {
    await renameFile(from, to);
    return undefined;
  } catch (error) {
    if (!isIrreplaceable(error)) throw error;
  }
  await beforeWrite();
  const stats = await copy(from, to, beforeWrite);
  await beforeWrite();
  await unlink(from);
  return stats;
}

/** Returns true if a rename failed because a path is a mount point or on another file system. */
export function isIrreplaceable(error: unknown): boolean {
  return ["EBUSY", "EXDEV"].includes(codeOf(error));
}

/**
 * Rejects with `StorageFailed` when `path` is a mount point that is not writable, because replacing
 * it would fail only at the end of the download. Without access to the list of mounts, does
 * nothing.
 */
export async function requireReplaceable(path: string): Promise<void> {
  if (!(await isMountPoint(path))) return;
  try {
    await (await open(path, "r+")).close();
  } catch (error) {
    throw storageError(error, `cannot write the mount point ${path} in place`);
  }
}

async function copy(
  from: string,
  to: string,
  beforeWrite: () => Promise<void>,
): Promise<BigIntStats> {
  const source = await open(from, "r");
  try {
    const target = await open(to, "w");
    try {
      await copyContent(source, target, beforeWrite);
      await target.sync();
      return await target.stat({ bigint: true });
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

async function copyContent(
  source: FileHandle,
  target: FileHandle,
  beforeWrite: () => Promise<void>,
): Promise<void> {
  const buffer = new Uint8Array(COPY_BUFFER_BYTES);
  for (let position = 0; ; ) {
    const { bytesRead } = await source.read(buffer, 0, COPY_BUFFER_BYTES, position);
    if (bytesRead === 0) return;
    await beforeWrite();
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

/**
 * Returns the mount point in a line of proc_pid_mountinfo(5): field 5, with space, tab, newline and
 * backslash as octal escapes.
 */
function mountPointOf(line: string): string | undefined {
  return line
    .split(" ")[4]
    ?.replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));
}

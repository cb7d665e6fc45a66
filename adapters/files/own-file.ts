import type { Stats } from "node:fs";
import { type FileHandle, lstat, open, readFile, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { VortexError } from "../../src/errors.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Max number of attempts to open a path that other processes replace at the same time. */
const MAX_TRIES = 100;

/** Device and inode numbers, which together identify a file. */
interface FileIdentity {
  readonly dev: bigint;
  readonly ino: bigint;
}

/**
 * Opens an existing file for reading and writing without changing its content, or creates an empty
 * file.
 *
 * In a shared directory such as `/tmp`, another user can create an entry at `path` first. It could
 * be a symbolic link to a file of this user, a pipe that blocks forever, or a file with foreign
 * content. Such an entry is removed and not opened. Opening fails if the entry cannot be removed.
 */
export async function openOwnFile(path: string): Promise<FileHandle> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const found = await lstat(path, { bigint: true }).catch(undefinedIfMissing);
    // Deno's unlink would remove an empty directory.
    if (found?.isDirectory())
      throw new VortexError("StorageFailed", `${path}: expected a file, got a directory`);
    try {
      if (found === undefined) return await open(path, "wx+");
      if (!found.isFile() || found.nlink > 1n || !(await isTrusted(path, found.uid))) {
        await unlink(path);
        continue;
      }
      const handle = await open(path, "r+");
      if (isSame(await handle.stat({ bigint: true }), found)) return handle;
      await handle.close();
    } catch (error) {
      // Another process replaced the path meanwhile.
      if (codeOf(error) !== "EEXIST" && codeOf(error) !== "ENOENT") throw error;
      if (found === undefined && codeOf(error) === "ENOENT") throw error;
    }
  }
  throw new VortexError("StorageFailed", `cannot open ${path}: other processes keep replacing it`);
}

/**
 * Returns true if `path` still names the open file of `handle`. Returns false if the file was
 * removed or replaced.
 */
export async function isStillAt(path: string, handle: FileHandle): Promise<boolean> {
  const found = await lstat(path, { bigint: true }).catch(undefinedIfMissing);
  return found !== undefined && isSame(await handle.stat({ bigint: true }), found);
}

/**
 * Reads the text of a small file. Resolves to undefined if the file does not exist. Rejects with
 * `StorageFailed` if it is not a regular file, or if it has more than `maxBytes` bytes.
 */
export async function readSmallFile(path: string, maxBytes: number): Promise<string | undefined> {
  const found = await lstat(path).catch(undefinedIfMissing);
  if (found === undefined) return undefined;
  if (found.isFile() && found.size <= maxBytes)
    return readFile(path, "utf8").catch(undefinedIfMissing);
  throw new VortexError("StorageFailed", `${path}: not a file of this program; remove it`);
}

/**
 * Creates a temporary file beside `path`, removes it, and returns its stats. The stats show the
 * current time of the file system's clock, and the owner of files that this process creates there.
 * Rejects with `StorageFailed` if the file cannot be created.
 */
export async function probeBeside(path: string): Promise<Stats> {
  const probe = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  try {
    const file = await open(probe, "wx");
    return await file.stat().finally(() => file.close());
  } catch (error) {
    throw storageError(error, `cannot create ${probe}`);
  } finally {
    await unlink(probe).catch(() => {});
  }
}

/**
 * Writes all of `data` to a file, starting at byte `position`. Continues after a short write, which
 * occurs on a nearly full disk.
 */
export async function writeFully(
  file: FileHandle,
  data: Uint8Array | string,
  position: number,
): Promise<void> {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  for (let at = 0; at < bytes.length; ) {
    at += (await file.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
  }
}

/**
 * Returns true if no other user can have created the file. This is the case if its directory is not
 * world-writable, or if the file belongs to this user.
 */
async function isTrusted(path: string, uid: bigint): Promise<boolean> {
  const { mode } = await stat(dirname(path));
  // Not geteuid: file systems may map owners, and Deno prompts its user for geteuid.
  return (mode & 0o002) === 0 || uid === BigInt((await probeBeside(path)).uid);
}

function isSame(one: FileIdentity, other: FileIdentity): boolean {
  return one.dev === other.dev && one.ino === other.ino;
}

function undefinedIfMissing(error: unknown): undefined {
  if (codeOf(error) !== "ENOENT") throw error;
  return undefined;
}

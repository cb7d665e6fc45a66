import type { Stats } from "node:fs";
import { type FileHandle, lstat, open, readFile, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { VortexError } from "../../src/errors.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Times that a name which leads to something else each time is looked at. */
const TRIES = 100;

/** What tells a file from others. */
interface Identity {
  readonly dev: bigint;
  readonly ino: bigint;
}

/**
 * Opens a file to read and write it, as it is or empty if there is none.
 *
 * Whoever may write in the directory, as anybody may in `/tmp`, can put something else under that name before: a symbolic link that
 * has a file of ours overwritten, a pipe that is waited for without end, a file whose content is theirs. Such things are not
 * opened but removed, and where that is not allowed, opening fails.
 */
export async function openOwnFile(path: string): Promise<FileHandle> {
  for (let tries = 0; tries < TRIES; tries++) {
    const found = await lstat(path, { bigint: true }).catch(unlessMissing);
    // Deno's unlink would remove it when it is empty.
    if (found?.isDirectory()) throw new VortexError("StorageFailed", `${path} is a directory`);
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
      // The name leads to something else now.
      if (codeOf(error) !== "EEXIST" && codeOf(error) !== "ENOENT") throw error;
      if (found === undefined && codeOf(error) === "ENOENT") throw error;
    }
  }
  throw new VortexError("StorageFailed", `${path} is changed again and again by somebody else`);
}

/** Whether `path` leads to the open file, and not to what somebody has put in its place. */
export async function isStillAt(path: string, handle: FileHandle): Promise<boolean> {
  const found = await lstat(path, { bigint: true }).catch(unlessMissing);
  return found !== undefined && isSame(await handle.stat({ bigint: true }), found);
}

/** A small file's text, undefined when there is none. Rejects with `StorageFailed` for what is no file, or a long one. */
export async function readSmallFile(path: string, most: number): Promise<string | undefined> {
  const found = await lstat(path).catch(unlessMissing);
  if (found === undefined) return undefined;
  if (found.isFile() && found.size <= most) return readFile(path, "utf8").catch(unlessMissing);
  throw new VortexError("StorageFailed", `${path} is no file of this program; remove it`);
}

/**
 * Makes a file beside `path`, removes it, and returns its stats: the file system's time, and the owner of what this process makes
 * there. Rejects with `StorageFailed`.
 */
export async function probeBeside(path: string): Promise<Stats> {
  const probe = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  try {
    const file = await open(probe, "wx");
    return await file.stat().finally(() => file.close());
  } catch (error) {
    throw storageError(error, `${probe} cannot be made`);
  } finally {
    await unlink(probe).catch(() => {});
  }
}

/** Writes all of `data` at `position`; a single write may be short, as on a disk that is almost full. */
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

/** In a directory where anybody may write, trusts only the files of this user. */
async function isTrusted(path: string, uid: bigint): Promise<boolean> {
  const { mode } = await stat(dirname(path));
  // Not geteuid: file systems may give files another owner, and Deno asks its user for it.
  return (mode & 0o002) === 0 || uid === BigInt((await probeBeside(path)).uid);
}

function isSame(one: Identity, other: Identity): boolean {
  return one.dev === other.dev && one.ino === other.ino;
}

function unlessMissing(error: unknown): undefined {
  if (codeOf(error) !== "ENOENT") throw error;
  return undefined;
}

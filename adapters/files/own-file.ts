import { type FileHandle, lstat, open, readFile, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import process from "node:process";
import { VortexError } from "../../src/errors.ts";
import { codeOf } from "./storage-error.ts";

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

/** In a directory where anybody may write, only what belongs to this user. */
async function isTrusted(path: string, uid: bigint): Promise<boolean> {
  const own = process.geteuid?.();
  if (own === undefined || uid === BigInt(own)) return true;
  const { mode } = await stat(dirname(path));
  return (mode & 0o002) === 0;
}

function isSame(one: Identity, other: Identity): boolean {
  return one.dev === other.dev && one.ino === other.ino;
}

function unlessMissing(error: unknown): undefined {
  if (codeOf(error) !== "ENOENT") throw error;
  return undefined;
}

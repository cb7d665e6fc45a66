/** The files that a download keeps beside its output while it runs. */
import { lstat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { nativeHashers } from "../shared/native-hashers.ts";
import { codeOf } from "./storage-error.ts";

/** Greatest length of a name, in bytes of UTF-8, on ext4, XFS, Btrfs, APFS and most others. */
const MAX_NAME_BYTES = 255;
/** The longest suffix that is added to a side file's stem: that of a probe beside the lock. */
const MAX_SUFFIX = ".part.lock.00000000";

/** Paths of the side files of one output. */
export interface SideFiles {
  /** The content while it comes. */
  readonly part: string;
  /** The pieces that `part` holds. */
  readonly journal: string;
  /** Keeps other downloads away. */
  readonly lock: string;
}

/**
 * Names the side files of `path`: they lie beside it and begin with its name. Where that makes a name too long for the file system,
 * they begin with 32 hex digits of the name's SHA-256 instead.
 */
export async function sideFilesOf(path: string): Promise<SideFiles> {
  const stem = (await fits(path + MAX_SUFFIX))
    ? path
    : join(dirname(path), shortName(basename(path)));
  return { part: `${stem}.part`, journal: `${stem}.part.journal`, lock: `${stem}.part.lock` };
}

async function fits(path: string): Promise<boolean> {
  if (new TextEncoder().encode(basename(path)).length > MAX_NAME_BYTES) return false;
  // Encrypted folders take less, 143 bytes for one (eCryptfs).
  const code = await lstat(path).then(() => "", codeOf);
  return code !== "ENAMETOOLONG";
}

function shortName(name: string): string {
  const hasher = nativeHashers("sha256");
  hasher.update(new TextEncoder().encode(name));
  return hasher.encode().slice(0, 32);
}

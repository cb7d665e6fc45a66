/** Names the temporary files of a download, beside its output file. */
import { lstat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { nativeHashers } from "../shared/native-hashers.ts";
import { codeOf } from "./storage-error.ts";

/** Max length of a file name on ext4, XFS, Btrfs, APFS and most others, in bytes of UTF-8. */
const MAX_NAME_BYTES = 255;
/** Longest suffix that is added to a file name: that of a temporary file beside the lock. */
const LONGEST_SUFFIX = ".part.lock.00000000";

/** Paths of the temporary files of one output file. */
export interface SideFiles {
  /** Content, as far as received. */
  readonly part: string;
  /** List of the verified pieces in `part`. */
  readonly journal: string;
  /** Lock that excludes other downloads. */
  readonly lock: string;
}

/**
 * Returns the paths of the temporary files of `path`, in the same directory and with its name as
 * prefix. If that is too long for the file system, the prefix is 32 hex digits of the name's
 * SHA-256.
 */
export async function sideFilesOf(path: string): Promise<SideFiles> {
  const stem = (await fits(path + LONGEST_SUFFIX))
    ? path
    : join(dirname(path), shortName(basename(path)));
  return { part: `${stem}.part`, journal: `${stem}.part.journal`, lock: `${stem}.part.lock` };
}

async function fits(path: string): Promise<boolean> {
  if (new TextEncoder().encode(basename(path)).length > MAX_NAME_BYTES) return false;
  // Encrypted folders have a lower limit, such as 143 bytes with eCryptfs.
  const code = await lstat(path).then(() => "", codeOf);
  return code !== "ENAMETOOLONG";
}

function shortName(name: string): string {
  const hasher = nativeHashers("sha256");
  hasher.update(new TextEncoder().encode(name));
  return hasher.encode().slice(0, 32);
}

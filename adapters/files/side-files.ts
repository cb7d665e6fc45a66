/** Names the temporary files of a download, which are in the directory of its output file. */
import { lstat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { nativeHashers } from "../shared/native-hashers.ts";
import { codeOf } from "./storage-error.ts";

/**
 * Max length of a file name in bytes of UTF-8, on ext4, XFS, Btrfs, APFS and most other file
 * systems.
 */
const MAX_NAME_BYTES = 255;
/**
 * Longest suffix that is added to the name of an output file: that of a temporary file beside the
 * lock file.
 */
const LONGEST_SUFFIX = ".part.lock.00000000";

/** Paths of the temporary files that a download uses for one output file. */
export interface SideFiles {
  /** File with the content received so far. */
  readonly part: string;
  /** File that lists the verified pieces in `part`. */
  readonly journal: string;
  /** Lock file that excludes other downloads to the same output file. */
  readonly lock: string;
}

/**
 * Returns the paths of the temporary files for the output file `path`. They are in the same
 * directory, and their names start with the name of the output file. If such a name is too long for
 * the file system, it starts with a hash instead: 32 hex digits of the SHA-256 of the output file's
 * name.
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

import { constants, copyFile, lstat, rename, unlink } from "node:fs/promises";
import { VortexError } from "../../src/errors.ts";
import { isStillAt, openOwnFile } from "./own-file.ts";
import { codeOf, storageError } from "./storage-error.ts";

/**
 * Replaces a file by a copy, so that descriptors opened before refer to another inode. Does nothing
 * when the file does not exist. The copy shares its blocks with the file (reflink) if the file
 * system can do so. Otherwise it takes the space of the file again.
 *
 * Rejects with `StorageFailed`, as on a full disk. The file is then unchanged.
 *
 * @param confirm rejects when this process may no longer write to the file
 * @param copy replacement of `copyFile`, for tests
 */
export async function moveToNewInode(
  path: string,
  confirm: () => Promise<void>,
  copy: typeof copyFile = copyFile,
): Promise<void> {
  const copyPath = `${path}.copy`;
  try {
    if (!(await exists(path))) return;
    // Removes a foreign entry, such as a pipe, which would block the copy.
    const file = await openOwnFile(path);
    try {
      // Removes the copy of a process that was killed during this function.
      await unlink(copyPath).catch(undefinedIfMissing);
      await copy(path, copyPath, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
      if (!(await isStillAt(path, file)))
        throw new VortexError(
          "StorageFailed",
          `cannot copy ${path}: replaced by another process meanwhile`,
        );
      await confirm();
      await rename(copyPath, path);
    } catch (error) {
      // Once the lock is lost, the copy belongs to another process.
      await confirm()
        .then(() => unlink(copyPath))
        .catch(() => {});
      throw error;
    } finally {
      await file.close();
    }
  } catch (error) {
    throw storageError(error, `cannot copy ${path} out of reach of an earlier download`);
  }
}

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(undefinedIfMissing)) !== undefined;
}

function undefinedIfMissing(error: unknown): undefined {
  if (codeOf(error) !== "ENOENT") throw error;
  return undefined;
}

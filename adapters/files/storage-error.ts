import { VortexError } from "../../src/errors.ts";
import { permissionError } from "../shared/permission.ts";

const causes: Record<string, string> = {
  ENOSPC: "no space is left on the device",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file system takes no file of this size",
  EROFS: "the file system is read-only",
  EACCES: "permission is denied",
  EPERM: "permission is denied",
  ENOENT: "there is no such file or directory",
  ENOTDIR: "a part of the path is no directory",
  EISDIR: "it is a directory",
  EMFILE: "too many files are open",
  ENFILE: "too many files are open",
  EIO: "the device failed",
  ENAMETOOLONG: "the name is too long for the file system",
  EBUSY: "it is in use, or a mount point",
  ELOOP: "symbolic links lead in a circle",
};

/** The `StorageFailed` of a file operation, in words, or its `PermissionDenied`; `what` says what could not be done. */
export function storageError(error: unknown, what: string): VortexError {
  if (error instanceof VortexError) return error;
  const denied = permissionError(error, what);
  if (denied !== undefined) return denied;
  const why = causes[codeOf(error)];
  if (why === undefined) return VortexError.from(error, "StorageFailed", what);
  return new VortexError("StorageFailed", `${what}: ${why}`, { cause: error });
}

/** The system's code of an error, `ENOENT` for one, or an empty string. */
export function codeOf(error: unknown): string {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined;
  return typeof code === "string" ? code : "";
}

import { VortexError } from "../../src/errors.ts";
import { permissionError } from "../shared/permission.ts";

const causes: Record<string, string> = {
  ENOSPC: "no space left on device",
  EDQUOT: "disk quota exceeded",
  EFBIG: "file too large for the file system",
  EROFS: "read-only file system",
  EACCES: "permission denied",
  EPERM: "permission denied",
  ENOENT: "no such file or directory",
  ENOTDIR: "a component of the path is not a directory",
  EISDIR: "is a directory",
  EMFILE: "too many open files",
  ENFILE: "too many open files",
  EIO: "device I/O error",
  ENAMETOOLONG: "name too long for the file system",
  EBUSY: "file in use, or a mount point",
  ELOOP: "symbolic link loop",
};

/**
 * Converts the error of a file operation to a `VortexError`. Its code is `PermissionDenied` if the
 * runtime denied a permission, otherwise `StorageFailed`. Returns a `VortexError` unchanged.
 * @param what the failed action, for the message, such as `cannot read /etc/x`
 */
export function storageError(error: unknown, what: string): VortexError {
  if (error instanceof VortexError) return error;
  const denied = permissionError(error, what);
  if (denied !== undefined) return denied;
  const why = causes[codeOf(error)];
  if (why === undefined) return VortexError.from(error, "StorageFailed", what);
  return new VortexError("StorageFailed", `${what}: ${why}`, { cause: error });
}

/**
 * Returns the system error code of an error, such as `ENOENT`, or an empty string if it has no
 * code.
 */
export function codeOf(error: unknown): string {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined;
  return typeof code === "string" ? code : "";
}

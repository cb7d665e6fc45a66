/** Opens and writes the target of `--output`. */
import { write } from "node:fs";
import { type FileHandle, open, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { type Descriptor, descriptorOf } from "../adapters/files/descriptor.ts";
import { linkTarget } from "../adapters/files/link-target.ts";
import { replaceFile, requireReplaceable } from "../adapters/files/replace-file.ts";
import { codeOf, storageError } from "../adapters/files/storage-error.ts";
import { untilAborted, VortexError } from "../src/errors.ts";
import { unblockPipe } from "./named-pipe.ts";
import { type CliEnvironment, type TextOutput, writeBytes } from "./terminal.ts";

/** Target named by `--output`. */
export type Target =
  | { readonly kind: "stdout" | "stderr" }
  /** Inherited file descriptor of a file, such as /dev/fd/5. Written from its current position. */
  | { readonly kind: "descriptor"; readonly path: string; readonly fd: number }
  /** Existing device or pipe, such as /dev/null or a named pipe. Written in order. */
  | { readonly kind: "device"; readonly path: string }
  /**
   * Existing or new file. `path` has symbolic links resolved: their target is replaced, not the
   * link.
   */
  | { readonly kind: "file"; readonly path: string };

/** Writes the next bytes of the content. Resolves when they are written. */
export type Write = (bytes: Uint8Array) => Promise<void>;

/**
 * Resolves the value of `--output`: `-` for standard output, else a path. Rejects with
 * `StorageFailed` when the target is not writable, and with `Unavailable` when the runtime does not
 * support it.
 */
export async function targetOf(output: string): Promise<Target> {
  if (output === "-") return { kind: "stdout" };
  const descriptor = await descriptorOf(output);
  if (descriptor?.fd === 1) return { kind: "stdout" };
  if (descriptor?.fd === 2) return { kind: "stderr" };
  const kind = await kindOf(output);
  if (kind === "directory")
    throw new VortexError("StorageFailed", `${output}: expected a file, got a directory`);
  if (kind === "device") return { kind, path: output };
  if (descriptor !== undefined)
    return { kind: "descriptor", path: output, fd: fileOf(descriptor, output, kind) };
  return { kind: "file", path: await linkTarget(output) };
}

/** Returns the standard stream for JSON objects: one that `target` does not fill with content. */
export function jsonOutput(target: Target, { stdout, stderr }: CliEnvironment): TextOutput {
  return target.kind === "file" || target.kind === "stderr" ? stdout : stderr;
}

/**
 * Runs `fill` with a function that writes to a stream, descriptor or device. Resolves to the result
 * of `fill`.
 *
 * Rejects with `StorageFailed` when a write fails. Without `force`, rejects with `InvalidArgument`
 * for a terminal, which content would garble.
 */
export async function withStream<T>(
  target: Exclude<Target, { readonly kind: "file" }>,
  { stdout, stderr, signal }: CliEnvironment,
  force: boolean,
  fill: (write: Write) => Promise<T>,
): Promise<T> {
  if (target.kind === "device") return withHandle(target.path, "w", signal, fill);
  if (target.kind === "descriptor")
    return fill((bytes) => writeDescriptor(target.fd, target.path, bytes));
  const output = target.kind === "stdout" ? stdout : stderr;
  if (output.isTTY && !force) {
    throw new VortexError(
      "InvalidArgument",
      "standard output: expected a file or pipe, got a terminal; give -o FILE or --force",
    );
  }
  return fill((bytes) => writeBytes(output, bytes, signal));
}

/**
 * Runs `fill` with a function that writes to a temporary file, then renames that file to `path`.
 * The temporary file is removed when anything fails. Rejects with `StorageFailed`.
 */
export async function withFile(
  path: string,
  signal: AbortSignal,
  fill: (write: Write) => Promise<void>,
): Promise<void> {
  await requireReplaceable(path);
  // The temporary name does not contain the file's name: it could exceed the length limit.
  const temporary = join(dirname(path), `.vortex-peer.${crypto.randomUUID().slice(0, 8)}.part`);
  try {
    await withHandle(temporary, "wx", signal, fill);
    await asStorageError(path, replaceFile(temporary, path));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
}

/**
 * Returns the number of this process's descriptor for an inherited file.
 * @throws `StorageFailed` for a closed descriptor or one of another process, `Unavailable` on Deno
 */
function fileOf({ fd }: Descriptor, output: string, kind: "file" | "none"): number {
  if (kind === "none")
    throw new VortexError("StorageFailed", `cannot write ${output}: no such descriptor is open`);
  if (fd === undefined) {
    throw new VortexError(
      "StorageFailed",
      `${output}: expected a descriptor of this process, got one of another process; give the file's path`,
    );
  }
  if (process.versions.deno === undefined) return fd;
  throw new VortexError(
    "Unavailable",
    `${output}: Deno cannot write to inherited files other than standard output; use -o -`,
  );
}

async function withHandle<T>(
  path: string,
  flags: "w" | "wx",
  signal: AbortSignal,
  fill: (write: Write) => Promise<T>,
): Promise<T> {
  const handle = await openHandle(path, flags, signal);
  try {
    const filled = await fill(async (bytes) => {
      for (let at = 0; at < bytes.length; ) {
        at += (await asStorageError(path, handle.write(bytes, at, bytes.length - at))).bytesWritten;
      }
    });
    // Sync before the rename: after a power cut, the final name must not exist without its content.
    // A device has nothing to sync.
    if (flags === "wx") await asStorageError(path, handle.datasync());
    return filled;
  } finally {
    await handle.close();
  }
}

/**
 * Opens a file. A named pipe opens once it has a reader: the wait ends when `signal` aborts, and
 * rejects with its reason.
 */
async function openHandle(
  path: string,
  flags: "w" | "wx",
  signal: AbortSignal,
): Promise<FileHandle> {
  const opening = asStorageError(path, open(path, flags));
  try {
    return await untilAborted(opening, signal, `opening ${path}`);
  } catch (error) {
    opening.then((handle) => handle.close()).catch(() => {});
    await unblockPipe(path);
    throw error;
  }
}

/**
 * Writes at the descriptor's current position, or at the end if it was opened for appending. The
 * position is shared with the process that opened the file.
 */
async function writeDescriptor(fd: number, path: string, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const writing = new Promise<number>((resolve, reject) => {
      write(fd, bytes, at, bytes.length - at, null, (error, written) =>
        error ? reject(error) : resolve(written),
      );
    });
    at += await asStorageError(path, writing);
  }
}

async function kindOf(path: string): Promise<"file" | "directory" | "device" | "none"> {
  if (path.endsWith("/")) return "directory";
  try {
    const stats = await stat(path);
    return stats.isFile() ? "file" : stats.isDirectory() ? "directory" : "device";
  } catch (error) {
    if (codeOf(error) === "ENOENT") return "none";
    throw storageError(error, `cannot write ${path}`);
  }
}

async function asStorageError<T>(path: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw storageError(error, `cannot write ${path}`);
  }
}

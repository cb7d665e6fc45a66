/** Where the content of a piece or task goes. */
import { write } from "node:fs";
import { open, realpath, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { type Descriptor, descriptorOf } from "../adapters/files/descriptor.ts";
import { replaceFile, requireReplaceable } from "../adapters/files/replace-file.ts";
import { codeOf, storageError } from "../adapters/files/storage-error.ts";
import { VortexError } from "../src/errors.ts";
import { type CliEnvironment, type TextOutput, writeBytes } from "./terminal.ts";

/** What `--output` names. */
export type Target =
  | { readonly kind: "stdout" | "stderr" }
  /** A file that this process was started with, at a descriptor of its own: it is written to from where it stands. */
  | { readonly kind: "descriptor"; readonly path: string; readonly fd: number }
  /** Something that exists and is no file, such as /dev/null or a named pipe: it is written to, in order. */
  | { readonly kind: "device"; readonly path: string }
  /** A file that is there or will be. `path` is what a symbolic link leads to: that is replaced, not the link. */
  | { readonly kind: "file"; readonly path: string };

/** Takes content in order; resolves when it is written. */
export type Write = (bytes: Uint8Array) => Promise<void>;

/**
 * Returns what `output` names: `-` for standard output, else a path. Rejects with `StorageFailed` for what cannot be written to, and
 * with `Unavailable` where the runtime cannot.
 */
export async function targetOf(output: string): Promise<Target> {
  if (output === "-") return { kind: "stdout" };
  const descriptor = await descriptorOf(output);
  if (descriptor?.fd === 1) return { kind: "stdout" };
  if (descriptor?.fd === 2) return { kind: "stderr" };
  const kind = await kindOf(output);
  if (kind === "directory")
    throw new VortexError("StorageFailed", `${output} is a directory, not a file`);
  if (kind === "device") return { kind, path: output };
  if (descriptor !== undefined)
    return { kind: "descriptor", path: output, fd: fileOf(descriptor, output, kind) };
  return { kind: "file", path: await realpath(output).catch(() => output) };
}

/** Returns the stream for JSON of a command whose content goes to `target`: one that gets no content. */
export function jsonOutput(target: Target, { stdout, stderr }: CliEnvironment): TextOutput {
  return target.kind === "file" || target.kind === "stderr" ? stdout : stderr;
}

/**
 * What `fill` resolves to, which is given a way to write to what is no file. Rejects with `StorageFailed`; with `InvalidArgument` for a terminal,
 * which content would garble, unless `force` is set.
 */
export async function withStream<T>(
  target: Exclude<Target, { readonly kind: "file" }>,
  { stdout, stderr, signal }: CliEnvironment,
  force: boolean,
  fill: (write: Write) => Promise<T>,
): Promise<T> {
  if (target.kind === "device") return withHandle(target.path, "w", fill);
  if (target.kind === "descriptor")
    return fill((bytes) => writeDescriptor(target.fd, target.path, bytes));
  const output = target.kind === "stdout" ? stdout : stderr;
  if (output.isTTY && !force) {
    throw new VortexError(
      "InvalidArgument",
      "the content is not for a terminal: give -o FILE, a pipe, or --force",
    );
  }
  return fill((bytes) => writeBytes(output, bytes, signal));
}

/** Runs `fill` with a way to write to a file, which has its name only once `fill` is done; if it fails, nothing is left. */
export async function withFile(path: string, fill: (write: Write) => Promise<void>): Promise<void> {
  await requireReplaceable(path);
  // Not named after the file: the name could be too long then.
  const temporary = join(dirname(path), `.vortex-peer.${crypto.randomUUID().slice(0, 8)}.part`);
  try {
    await withHandle(temporary, "wx", fill);
    await storing(path, replaceFile(temporary, path));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
}

/** The number of a descriptor of this process that is a file. */
function fileOf({ fd }: Descriptor, output: string, kind: "file" | "none"): number {
  if (kind === "none")
    throw new VortexError(
      "StorageFailed",
      `${output} cannot be written: no such descriptor is open`,
    );
  if (fd === undefined) {
    throw new VortexError(
      "StorageFailed",
      `${output} is a file that another process has open: give the file's own name`,
    );
  }
  if (process.versions.deno === undefined) return fd;
  throw new VortexError(
    "Unavailable",
    `${output}: Deno writes to no inherited file but standard output: use -o -`,
  );
}

async function withHandle<T>(
  path: string,
  flags: "w" | "wx",
  fill: (write: Write) => Promise<T>,
): Promise<T> {
  const handle = await storing(path, open(path, flags));
  try {
    const filled = await fill(async (bytes) => {
      for (let at = 0; at < bytes.length; ) {
        at += (await storing(path, handle.write(bytes, at, bytes.length - at))).bytesWritten;
      }
    });
    // A name that survives a power cut must not stand for bytes that did not. A device has no such thing to sync.
    if (flags === "wx") await storing(path, handle.datasync());
    return filled;
  } finally {
    await handle.close();
  }
}

/** Writes at the descriptor's own position, which it shares with whoever opened it, or at the end where it was opened to append. */
async function writeDescriptor(fd: number, path: string, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const writing = new Promise<number>((resolve, reject) => {
      write(fd, bytes, at, bytes.length - at, null, (error, written) =>
        error ? reject(error) : resolve(written),
      );
    });
    at += await storing(path, writing);
  }
}

async function kindOf(path: string): Promise<"file" | "directory" | "device" | "none"> {
  if (path.endsWith("/")) return "directory";
  try {
    const stats = await stat(path);
    return stats.isFile() ? "file" : stats.isDirectory() ? "directory" : "device";
  } catch (error) {
    if (codeOf(error) === "ENOENT") return "none";
    throw storageError(error, `${path} cannot be written`);
  }
}

async function storing<T>(path: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw storageError(error, `${path} cannot be written`);
  }
}

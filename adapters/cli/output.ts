/** Where the content of a piece or task goes. */
import { open, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { VortexError } from "../../src/errors.ts";
import { type CliEnvironment, writeBytes } from "./terminal.ts";

/** What `--output` names. */
export type Target =
  | { readonly kind: "stdout" }
  /** Something that exists and is no file, such as /dev/null or a named pipe: it is written to, in order. */
  | { readonly kind: "device"; readonly path: string }
  /** A file that is there or will be. `path` is what a symbolic link leads to: that is replaced, not the link. */
  | { readonly kind: "file"; readonly path: string };

/** Takes content in order; resolves when it is written. */
export type Write = (bytes: Uint8Array) => Promise<void>;

/** What `output` names: `-` for standard output, else a path. Rejects with `StorageFailed` for a directory. */
export async function targetOf(output: string): Promise<Target> {
  if (output === "-") return { kind: "stdout" };
  const kind = await kindOf(output);
  if (kind === "directory") throw new VortexError("StorageFailed", `${output} is a directory, not a file`);
  if (kind === "device") return { kind, path: output };
  return { kind: "file", path: await realpath(output).catch(() => output) };
}

/**
 * What `fill` resolves to, which is given a way to write to what is no file. Rejects with `StorageFailed`; with `InvalidArgument` for a terminal,
 * which content would garble, unless `force` is set.
 */
export async function withStream<T>(
  target: Exclude<Target, { readonly kind: "file" }>,
  { stdout, signal }: CliEnvironment,
  force: boolean,
  fill: (write: Write) => Promise<T>,
): Promise<T> {
  if (target.kind === "device") return withHandle(target.path, "w", fill);
  if (stdout.isTTY && !force) {
    throw new VortexError("InvalidArgument", "the content is not for a terminal: give -o FILE, a pipe, or --force");
  }
  return fill((bytes) => writeBytes(stdout, bytes, signal));
}

/** Runs `fill` with a way to write to a file, which has its name only once `fill` is done; if it fails, nothing is left. */
export async function withFile(path: string, fill: (write: Write) => Promise<void>): Promise<void> {
  const unique = crypto.randomUUID().slice(0, 8);
  const temporary = join(dirname(path), `.${basename(path)}.${unique}.part`);
  try {
    await withHandle(temporary, "wx", fill);
    await storing(path, rename(temporary, path));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
}

async function withHandle<T>(path: string, flags: "w" | "wx", fill: (write: Write) => Promise<T>): Promise<T> {
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

async function kindOf(path: string): Promise<"file" | "directory" | "device" | "none"> {
  if (path.endsWith("/")) return "directory";
  try {
    const stats = await stat(path);
    return stats.isFile() ? "file" : stats.isDirectory() ? "directory" : "device";
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return "none";
    throw VortexError.from(error, "StorageFailed", `${path} cannot be written`);
  }
}

async function storing<T>(path: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw VortexError.from(error, "StorageFailed", `${path} cannot be written`);
  }
}

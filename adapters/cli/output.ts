import { type FileHandle, open, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { VortexError } from "../../src/errors.ts";
import { type CliEnvironment, writeBytes } from "./terminal.ts";

/** Where the content of a piece or task goes. */
export interface Output {
  /** Whether bytes must come in the order of their positions. */
  readonly ordered: boolean;
  /** Bytes to their place, counted from the output's first byte. */
  write(position: number, bytes: Uint8Array): Promise<void>;
  /** Up to `length` bytes that were written before. Not for an ordered output. */
  read(position: number, length: number): Promise<Uint8Array>;
}

/**
 * Runs `fill` with the output that `target` names: `-` for standard output, else a file, which has its name only once
 * `fill` is done; if it fails, nothing is left. A target that exists and is no file, such as /dev/null, is written to.
 *
 * Rejects with `StorageFailed`; `InvalidArgument` for a terminal, which content would garble, unless `force` is set.
 */
export async function withOutput(
  target: string,
  { stdout, signal }: CliEnvironment,
  force: boolean,
  fill: (output: Output) => Promise<void>,
): Promise<void> {
  if (target === "-") {
    if (stdout.isTTY && !force) {
      throw new VortexError("InvalidArgument", "the content is not for a terminal: give -o FILE, a pipe, or --force");
    }
    await fill({ ordered: true, write: (_position, bytes) => writeBytes(stdout, bytes, signal), read: neverRead });
    return;
  }
  const kind = await kindOf(target);
  if (kind === "directory") throw new VortexError("StorageFailed", `${target} is a directory, not a file`);
  await (kind === "device" ? intoDevice(target, fill) : intoFile(await resolved(target), fill));
}

async function intoFile(path: string, fill: (output: Output) => Promise<void>): Promise<void> {
  const unique = crypto.randomUUID().slice(0, 8);
  const temporary = join(dirname(path), `.${basename(path)}.${unique}.part`);
  const handle = await storing(temporary, open(temporary, "wx+"));
  try {
    await fill({
      ordered: false,
      write: (position, bytes) => writeAt(temporary, handle, bytes, position),
      read: (position, length) => readAt(temporary, handle, position, length),
    });
    // A name that survives a power cut must not stand for bytes that did not.
    await storing(temporary, handle.datasync());
    await storing(temporary, handle.close());
    await storing(path, rename(temporary, path));
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
}

async function intoDevice(path: string, fill: (output: Output) => Promise<void>): Promise<void> {
  const handle = await storing(path, open(path, "w"));
  try {
    await fill({ ordered: true, write: (_position, bytes) => writeAt(path, handle, bytes, null), read: neverRead });
  } finally {
    await handle.close();
  }
}

async function writeAt(path: string, handle: FileHandle, bytes: Uint8Array, position: number | null): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const place = position === null ? null : position + at;
    const { bytesWritten } = await storing(path, handle.write(bytes, at, bytes.length - at, place));
    at += bytesWritten;
  }
}

async function readAt(path: string, handle: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(length);
  const { bytesRead } = await storing(path, handle.read(buffer, 0, length, position));
  if (bytesRead === 0) throw new VortexError("StorageFailed", `${path} was cut while it was written`);
  return buffer.subarray(0, bytesRead);
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

/** The file behind a symbolic link: that one is replaced, not the link. */
async function resolved(path: string): Promise<string> {
  return realpath(path).catch(() => path);
}

async function storing<T>(path: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw VortexError.from(error, "StorageFailed", `${path} cannot be written`);
  }
}

function neverRead(): Promise<never> {
  return Promise.reject(new VortexError("Internal", "this output cannot be read back"));
}

import { type FileHandle, open, rename, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { invalid, show, text } from "../../src/arguments.ts";
import { VortexError } from "../../src/errors.ts";
import type { SinkLayout, SinkPiece, SinkSession, TaskSink } from "../../src/task/sink.ts";
import { descriptorOf } from "./descriptor.ts";
import { Journal } from "./journal.ts";
import { FileLock, type LockSettings } from "./lock.ts";
import { moveToNewInode } from "./new-inode.ts";
import { isStillAt, openOwnFile, writeFully } from "./own-file.ts";
import { isIrreplaceable, replaceFile, requireReplaceable } from "./replace-file.ts";
import { type SideFiles, sideFilesOf } from "./side-files.ts";
import { codeOf, storageError } from "./storage-error.ts";

/**
 * Creates a sink that writes a task to a file.
 *
 * Bytes are written to `<path>.part` as they arrive. `<path>.part.journal` lists the verified
 * pieces, and `<path>.part.lock` excludes other processes. When the content is complete and
 * verified, the file is synced and renamed to `path`, which replaces an existing file, and the
 * directory is synced. So the file at `path` is always complete, also after a power cut.
 *
 * A download that failed or was killed leaves the part and the journal. The next download to the
 * same path resumes from them, after it has verified the content against the journal and the
 * digests that parents announce. It discards leftovers of another task, of other digests, or of a
 * parent whose content has changed. When the suffixes make a name too long, these files are named
 * by a hash of it. For a range of a task, the file holds only the range.
 *
 * Leftovers of a process that is not provably dead are copied first, because it may still write to
 * them. Without reflinks in the file system, the copy takes their space again.
 *
 * A symbolic link or pipe at one of these paths is removed. In a world-writable directory, so is
 * another user's file.
 *
 * A file that cannot be replaced, such as a bind mount in a container, is overwritten in place at
 * the end. That is not atomic: a process killed meanwhile leaves it truncated, and the next
 * download copies it again.
 *
 * The download fails with `StorageFailed` when the disk is full or read-only, or a permission is
 * missing. It also fails when another download writes to the same path, or when another process
 * truncates or replaces the file.
 *
 * @example
 * ```ts
 * import { createDownloader } from "vortex-peer";
 * import { fileSink } from "vortex-peer/files";
 *
 * const downloader = createDownloader({ protocol: "tcp" });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * const to = fileSink("model.safetensors");
 * const parents = ["10.0.0.7:4005"];
 * const { resumedBytes } = await downloader.downloadTask({ taskId, parents, to });
 * console.log(`resumed ${resumedBytes} bytes from an earlier run`);
 * await downloader.close();
 * ```
 *
 * @throws `InvalidArgument` if `path` is neither non-empty text nor a `file:` URL of a path on this
 * host
 */
export function fileSink(path: string | URL): TaskSink {
  return fileSinkWith(pathOf(path), {});
}

/** Returns a path, or the path of a `file:` URL. */
function pathOf(path: string | URL): string {
  if (!(path instanceof URL)) {
    text("path", path);
    return path;
  }
  if (path.protocol !== "file:") throw invalid("path", "a path or a file: URL", path.href);
  try {
    return fileURLToPath(path);
  } catch (error) {
    // The URL names another host, or an encoded slash.
    const message = `path: expected a file: URL of a path on this host, got ${show(path.href)}`;
    throw new VortexError("InvalidArgument", message, { cause: error });
  }
}

/** Creates a {@link fileSink} with these settings for its lock; for tests. */
export function fileSinkWith(path: string, settings: LockSettings): TaskSink {
  let used = false;
  return {
    async open(layout, { digest }) {
      if (used) {
        throw new VortexError(
          "InvalidArgument",
          `sink of ${path}: expected one download, got a second; create a sink for each download`,
        );
      }
      used = true;
      return FileSession.open(path, layout, digest, settings);
    },
  };
}

/** Paths of the files of a download. */
interface Paths extends SideFiles {
  /** Path of the finished file. */
  readonly path: string;
}

/** Session of one download to a file. */
class FileSession implements SinkSession {
  readonly resumed: readonly SinkPiece[];
  readonly #paths: Paths;
  readonly #layout: SinkLayout;
  readonly #handle: FileHandle;
  readonly #journal: Journal;
  readonly #lock: FileLock;
  /** Pending file operations. The descriptor is closed after them. */
  readonly #pending = new Set<Promise<unknown>>();
  #committed: boolean;
  /** Stats of the finished file, to detect later changes. Undefined before. */
  #stamp: { readonly size: bigint; readonly mtimeNs: bigint; readonly ino: bigint } | undefined;
  #closed = false;

  private constructor(
    paths: Paths,
    layout: SinkLayout,
    handle: FileHandle,
    journal: Journal,
    lock: FileLock,
  ) {
    this.#paths = paths;
    this.#layout = layout;
    this.#handle = handle;
    this.#journal = journal;
    this.#lock = lock;
    this.resumed = journal.found;
    this.#committed = journal.found.length > 0;
  }

  static async open(
    path: string,
    layout: SinkLayout,
    digest: string | undefined,
    settings: LockSettings,
  ): Promise<FileSession> {
    await requireFile(path);
    const paths: Paths = { path, ...(await sideFilesOf(path)) };
    const lock = await FileLock.take(paths.lock, {
      detach: (lock) => detach(paths, lock),
      ...settings,
    });
    try {
      const openFile = (path: string): Promise<FileHandle> => openHeld(path, lock);
      const journal = await Journal.open(paths.journal, layout, { digest, openFile });
      try {
        const handle = await openPart(paths, journal, layout, lock);
        return new FileSession(paths, layout, handle, journal, lock);
      } catch (error) {
        await journal.close();
        throw error;
      }
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  async write(_number: number, position: number, chunk: Uint8Array): Promise<void> {
    await this.#use(`cannot write ${this.#paths.part}`, async (handle) => {
      await this.#lock.requireHeld();
      await writeFully(handle, chunk, position);
    });
  }

  async commit(piece: SinkPiece): Promise<void> {
    await this.#lock.requireHeld();
    await this.#journal.add(piece);
    this.#committed = true;
  }

  async read(
    _number: number,
    position: number,
    length: number,
    into?: Uint8Array,
  ): Promise<Uint8Array> {
    const buffer = into ?? new Uint8Array(length);
    const what = `cannot read ${this.#stamp === undefined ? this.#paths.part : this.#paths.path}`;
    const bytesRead = await this.#use(
      what,
      async (handle) => (await handle.read(buffer, 0, length, position)).bytesRead,
    );
    if (bytesRead === 0)
      throw new VortexError("StorageFailed", `${what}: file ends at byte ${position}`);
    return buffer.subarray(0, bytesRead);
  }

  async restart(kept: readonly SinkPiece[]): Promise<void> {
    await this.#lock.requireHeld();
    await this.#journal.restart(kept);
  }

  async advance(): Promise<void> {}

  async finish(): Promise<void> {
    const { path, part, journal } = this.#paths;
    try {
      await this.#lock.confirm();
      await this.#requireUncut();
      // Bytes beyond the end can only be leftovers of an earlier file at this path.
      await this.#handle.truncate(this.#layout.length);
      await this.#handle.sync();
      // From here on, a killed process leaves either the part or the file, both with the whole
      // content.
      await this.#journal.end();
      // Last, because syncing may take longer than a lock is valid without a heartbeat.
      await this.#requireOwned();
      const copied = await replaceFile(part, path, rename, () => this.#lock.requireHeld());
      await syncDirectory(dirname(path));
      const { size, mtimeNs, ino } = copied ?? (await this.#handle.stat({ bigint: true }));
      this.#stamp = { size, mtimeNs, ino };
    } catch (error) {
      throw storageError(error, `cannot create ${path}`);
    }
    await this.#journal.close();
    if (await this.#isHeld()) await unlink(journal).catch(() => {});
    await this.#lock.release();
    await this.#settled();
    await this.#handle.close();
  }

  async abort(_error: unknown, { discard = false } = {}): Promise<void> {
    this.#closed = true;
    await this.#settled();
    await this.#handle.close().catch(() => {});
    await this.#journal.close().catch(() => {});
    // Without the lock, the files at these paths belong to another process.
    if ((discard || !this.#committed) && (await this.#isHeld())) {
      await unlink(this.#paths.part).catch(() => {});
      await unlink(this.#paths.journal).catch(() => {});
    }
    await this.#lock.release();
  }

  /**
   * Checks that no other process truncated the file. Such a file would be reported as complete
   * although it lacks verified bytes. Rejects with `StorageFailed`.
   */
  async #requireUncut(): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size < this.#layout.length) throw this.#changedError();
  }

  /**
   * Checks that no other process replaced the file or took the lock over. Rejects with
   * `StorageFailed`.
   */
  async #requireOwned(): Promise<void> {
    await this.#lock.confirm();
    if (!(await isStillAt(this.#paths.part, this.#handle))) throw this.#changedError();
  }

  #changedError(): VortexError {
    return new VortexError(
      "StorageFailed",
      `${this.#paths.part}: changed by another process during the download; run it again`,
    );
  }

  #isHeld(): Promise<boolean> {
    return this.#lock.isHeld().catch(() => false);
  }

  async #settled(): Promise<void> {
    await Promise.allSettled([...this.#pending]);
  }

  /** Runs an operation on the part while it is written, and on the finished file afterwards. */
  async #use<T>(what: string, operation: (handle: FileHandle) => Promise<T>): Promise<T> {
    if (this.#closed)
      throw new VortexError("Closed", `sink session of ${this.#paths.part} is closed`);
    const running =
      this.#stamp === undefined
        ? operation(this.#handle)
        : this.#onFinished(this.#stamp, operation);
    this.#pending.add(running);
    try {
      return await running;
    } catch (error) {
      throw storageError(error, what);
    } finally {
      this.#pending.delete(running);
    }
  }

  /** Opens the finished file for one operation, because a finished download keeps no descriptor. */
  async #onFinished<T>(
    stamp: { readonly size: bigint; readonly mtimeNs: bigint; readonly ino: bigint },
    operation: (handle: FileHandle) => Promise<T>,
  ): Promise<T> {
    const handle = await open(this.#paths.path, "r");
    try {
      const { size, mtimeNs, ino } = await handle.stat({ bigint: true });
      if (size !== stamp.size || mtimeNs !== stamp.mtimeNs || ino !== stamp.ino) {
        throw new VortexError("StorageFailed", `${this.#paths.path}: changed after the download`);
      }
      return await operation(handle);
    } finally {
      await handle.close();
    }
  }
}

/**
 * Checks, before the download, that `path` can become a regular file. Rejects with `StorageFailed`
 * for a directory, device or descriptor.
 */
async function requireFile(path: string): Promise<void> {
  if ((await descriptorOf(path)) !== undefined) {
    throw new VortexError(
      "StorageFailed",
      `${path}: expected a file path, got an open file descriptor; use streamTask`,
    );
  }
  const stats = await stat(path).catch((error: unknown) => {
    if (codeOf(error) !== "ENOENT") throw storageError(error, `cannot create ${path}`);
    return undefined;
  });
  if (stats !== undefined && !stats.isFile()) {
    throw new VortexError(
      "StorageFailed",
      `${path}: expected a file, got a ${stats.isDirectory() ? "directory" : "device, pipe or socket"}`,
    );
  }
  if (stats !== undefined) await requireReplaceable(path);
}

/** Moves part and journal out of reach of an earlier holder that may still write to them. */
async function detach({ journal, part }: SideFiles, lock: FileLock): Promise<void> {
  // The journal first: the part, copied later, has every piece that the copied journal lists.
  for (const path of [journal, part]) await moveToNewInode(path, () => lock.confirm());
}

/**
 * Opens a side file of a download for writing. Then checks that this process still holds `lock`:
 * after a take-over, the path may already name a file of the new holder.
 */
async function openHeld(path: string, lock: FileLock): Promise<FileHandle> {
  const handle = await openOwnFile(path);
  try {
    await lock.requireHeld();
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Opens the part file, with the content of an earlier download if its journal lists pieces. */
async function openPart(
  { path, part }: Paths,
  journal: Journal,
  layout: SinkLayout,
  lock: FileLock,
): Promise<FileHandle> {
  try {
    const made = journal.complete && journal.found.length > 0;
    if (made && (await sizeOf(part)) === undefined && (await sizeOf(path)) === layout.length) {
      // The earlier process was killed between its last two steps. Its file is moved back to be
      // verified. A file that cannot be moved stays, and its content is fetched again.
      await lock.confirm();
      await rename(path, part).catch((error: unknown) => {
        if (!isIrreplaceable(error)) throw error;
      });
    }
    // Journaled pieces that are missing in the file fail verification and are fetched again.
    const handle = await openHeld(part, lock);
    if (journal.found.length === 0) await handle.truncate(0);
    return handle;
  } catch (error) {
    throw storageError(error, `cannot open ${part}`);
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  const stats = await stat(path).catch(() => undefined);
  return stats?.size;
}

/** Syncs a directory, so that a new name in it survives a power cut. No effect on Windows. */
async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r").catch(() => undefined);
  if (handle === undefined) return;
  await handle.sync().catch(() => {});
  await handle.close();
}

import { type FileHandle, open, rename, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { VortexError } from "../../src/errors.ts";
import type { SinkLayout, SinkPiece, SinkSession, TaskSink } from "../../src/task/sink.ts";
import { descriptorOf } from "./descriptor.ts";
import { Journal } from "./journal.ts";
import { FileLock } from "./lock.ts";
import { isStillAt, openOwnFile, writeFully } from "./own-file.ts";
import { isIrreplaceable, replaceFile, requireReplaceable } from "./replace-file.ts";
import { type SideFiles, sideFilesOf } from "./side-files.ts";
import { codeOf, storageError } from "./storage-error.ts";

/**
 * A sink that makes a file.
 *
 * Bytes go to `<path>.part` as they come; `<path>.part.journal` notes the pieces that are right, and `<path>.part.lock` keeps
 * other processes away. When all is there and right, the file is synced and renamed to `path`, over whatever has that
 * name, and the directory is synced: whoever sees the file after that, sees all of it, also after a loss of power.
 *
 * A download that failed or was killed leaves the first two, and the next one to the same path goes on from there, after it has
 * read what is there and compared it, also with what the parents announce. What is left of another task, of other digests, or by a
 * parent that has another content now, is discarded. Where a name is too long for the suffixes, these files begin with a hash of
 * it instead. For a range of a task, the file holds only
 * the range. A symbolic link or pipe with one of these names is removed, and where anybody may write, so is another user's file.
 *
 * A file that cannot be replaced, such as one that is mounted by itself into a container, is written in place at the end, which is
 * not atomic: a process that is killed in between leaves it cut, and the next download copies it again.
 *
 * The download fails with `StorageFailed`, in words, when the disk is full or read-only, permission is missing, another
 * download writes to the same path, or the file was cut or replaced meanwhile.
 *
 * @example
 * ```ts
 * import { createDownloader, fileSink } from "vortex-peer";
 *
 * const downloader = createDownloader({ protocol: "tcp" });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * const request = { taskId, hostId: "my-host", parents: ["10.0.0.7:4005"] };
 * const { resumedBytes } = await downloader.downloadTask(request, { to: fileSink("model.safetensors") }).done;
 * console.log(`${resumedBytes} bytes were there already`);
 * await downloader.close();
 * ```
 */
export function fileSink(path: string): TaskSink {
  let used = false;
  return {
    async open(layout, { digest }) {
      if (used) throw new VortexError("InvalidArgument", `the sink of ${path} is in use already`);
      used = true;
      return FileSession.open(path, layout, digest);
    },
  };
}

/** The paths of a download's files. */
interface Names extends SideFiles {
  readonly path: string;
}

class FileSession implements SinkSession {
  readonly resumed: readonly SinkPiece[];
  readonly #names: Names;
  readonly #layout: SinkLayout;
  readonly #handle: FileHandle;
  readonly #journal: Journal;
  readonly #lock: FileLock;
  /** Operations under way; the descriptor is closed after them. */
  readonly #running = new Set<Promise<unknown>>();
  #committed: boolean;
  /** Once finished: what tells that the file is still the one that was written. */
  #stamp: { readonly size: bigint; readonly mtimeNs: bigint; readonly ino: bigint } | undefined;
  #closed = false;

  private constructor(
    names: Names,
    layout: SinkLayout,
    handle: FileHandle,
    journal: Journal,
    lock: FileLock,
  ) {
    this.#names = names;
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
  ): Promise<FileSession> {
    await requireFile(path);
    const names: Names = { path, ...(await sideFilesOf(path)) };
    const lock = await FileLock.take(names.lock);
    try {
      const journal = await Journal.open(names.journal, layout, { digest });
      try {
        const handle = await openPart(names, journal, layout);
        return new FileSession(names, layout, handle, journal, lock);
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
    await this.#use(`${this.#names.part} cannot be written`, (handle) =>
      writeFully(handle, chunk, position),
    );
  }

  async commit(piece: SinkPiece): Promise<void> {
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
    const what = `${this.#stamp === undefined ? this.#names.part : this.#names.path} cannot be read`;
    const bytesRead = await this.#use(
      what,
      async (handle) => (await handle.read(buffer, 0, length, position)).bytesRead,
    );
    if (bytesRead === 0)
      throw new VortexError("StorageFailed", `${what}: it ends at byte ${position}`);
    return buffer.subarray(0, bytesRead);
  }

  restart(kept: readonly SinkPiece[]): Promise<void> {
    return this.#journal.restart(kept);
  }

  async advance(): Promise<void> {}

  async finish(): Promise<void> {
    const { path, part, journal } = this.#names;
    try {
      await this.#requireIntact();
      // Bytes behind the end can only be of an earlier file of this name.
      await this.#handle.truncate(this.#layout.length);
      await this.#handle.sync();
      // From here on, a process that is killed leaves either the part or the file; both hold everything.
      await this.#journal.end();
      const copied = await replaceFile(part, path);
      await syncDirectory(dirname(path));
      const { size, mtimeNs, ino } = copied ?? (await this.#handle.stat({ bigint: true }));
      this.#stamp = { size, mtimeNs, ino };
    } catch (error) {
      throw storageError(error, `${path} cannot be made`);
    }
    await this.#journal.close();
    await unlink(journal).catch(() => {});
    await this.#lock.release();
    await this.#settled();
    await this.#handle.close();
  }

  async abort(_error: unknown, { discard = false } = {}): Promise<void> {
    this.#closed = true;
    await this.#settled();
    await this.#handle.close().catch(() => {});
    await this.#journal.close().catch(() => {});
    if (discard || !this.#committed) {
      await unlink(this.#names.part).catch(() => {});
      await unlink(this.#names.journal).catch(() => {});
    }
    await this.#lock.release();
  }

  /** Whoever has cut the file or put another one in its place would have it reported as complete, with bytes that never came. */
  async #requireIntact(): Promise<void> {
    const { part } = this.#names;
    const { size } = await this.#handle.stat();
    if (
      size >= this.#layout.length &&
      (await this.#lock.isHeld()) &&
      (await isStillAt(part, this.#handle))
    )
      return;
    throw new VortexError(
      "StorageFailed",
      `${part} was changed by somebody else while it was written`,
    );
  }

  async #settled(): Promise<void> {
    await Promise.allSettled([...this.#running]);
  }

  /** Works on the file: the open one while it is written, the one with its name afterwards. */
  async #use<T>(what: string, operation: (handle: FileHandle) => Promise<T>): Promise<T> {
    if (this.#closed)
      throw new VortexError("Closed", `${this.#names.part} is not written any more`);
    const running =
      this.#stamp === undefined
        ? operation(this.#handle)
        : this.#onFinished(this.#stamp, operation);
    this.#running.add(running);
    try {
      return await running;
    } catch (error) {
      throw storageError(error, what);
    } finally {
      this.#running.delete(running);
    }
  }

  /** Opens the file for one operation: a download that is done keeps no descriptor. */
  async #onFinished<T>(
    stamp: { readonly size: bigint; readonly mtimeNs: bigint; readonly ino: bigint },
    operation: (handle: FileHandle) => Promise<T>,
  ): Promise<T> {
    const handle = await open(this.#names.path, "r");
    try {
      const { size, mtimeNs, ino } = await handle.stat({ bigint: true });
      if (size !== stamp.size || mtimeNs !== stamp.mtimeNs || ino !== stamp.ino) {
        throw new VortexError(
          "StorageFailed",
          `${this.#names.path} was changed after it had been fetched`,
        );
      }
      return await operation(handle);
    } finally {
      await handle.close();
    }
  }
}

/** Rejects, before anything is fetched, with `StorageFailed` for what cannot become a file: a directory, device or descriptor. */
async function requireFile(path: string): Promise<void> {
  if ((await descriptorOf(path)) !== undefined) {
    throw new VortexError(
      "StorageFailed",
      `${path} is an open file descriptor, which no file can replace: use streamTask`,
    );
  }
  const stats = await stat(path).catch((error: unknown) => {
    if (codeOf(error) !== "ENOENT") throw storageError(error, `${path} cannot be made`);
    return undefined;
  });
  if (stats !== undefined && !stats.isFile()) {
    throw new VortexError(
      "StorageFailed",
      `${path} is ${stats.isDirectory() ? "a directory" : "no regular file"}`,
    );
  }
  if (stats !== undefined) await requireReplaceable(path);
}

async function openPart(
  { path, part }: Names,
  journal: Journal,
  layout: SinkLayout,
): Promise<FileHandle> {
  try {
    const made = journal.complete && journal.found.length > 0;
    if (made && (await sizeOf(part)) === undefined && (await sizeOf(path)) === layout.length) {
      // The earlier process was killed between its last two steps; what it made is looked at once more.
      // A file that cannot be moved stays, and its content is fetched again.
      await rename(path, part).catch((error: unknown) => {
        if (!isIrreplaceable(error)) throw error;
      });
    }
    // Where what was found is not there, reading it fails, and it is fetched again.
    const handle = await openOwnFile(part);
    if (journal.found.length === 0) await handle.truncate(0);
    return handle;
  } catch (error) {
    throw storageError(error, `${part} cannot be opened`);
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  const stats = await stat(path).catch(() => undefined);
  return stats?.size;
}

/** Makes the new name durable, where a directory can be synced: Windows has no such thing. */
async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r").catch(() => undefined);
  if (handle === undefined) return;
  await handle.sync().catch(() => {});
  await handle.close();
}

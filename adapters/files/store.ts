import { type FileHandle, open, stat } from "node:fs/promises";
import {
  abortSignal,
  type Checks,
  callback,
  invalid,
  oneOf,
  requireOptions,
  size,
  text,
} from "../../src/arguments.ts";
import { resolveRange } from "../../src/client/call/piece-content.ts";
import { crc32Combine } from "../../src/digest/crc32-combine.ts";
import type { HasherFactory } from "../../src/digest/hasher.ts";
import { abortedError, VortexError } from "../../src/errors.ts";
import { notify } from "../../src/notify.ts";
import {
  type ByteRange,
  MAX_PIECE_LENGTH,
  type PieceKind,
  type PieceMetadata,
  pieceExtent,
  pieceKinds,
  pieceLengthFor,
  pieceMetadata,
  planTask,
  type TaskPlan,
} from "../../src/piece.ts";
import type {
  PieceStore,
  StoredPiece,
  StoredPieceRequest,
  StoredTask,
} from "../../src/store/store.ts";
import { nativeHashers } from "../shared/native-hashers.ts";
import { storageError } from "./storage-error.ts";

/**
 * Size in bytes of the chunks in which a piece is read. The last chunk of a piece may be shorter.
 * The index has a CRC-32 for each chunk.
 */
const CHUNK_BYTES = 512 * 1024;

/**
 * Max number of concurrent piece reads with readahead of one chunk. With more reads, the disk is
 * busy anyway, and readahead would only use memory.
 */
const MAX_READAHEAD_READERS = 64;

/** Options of {@link FilePieceStore.addFile}. */
export interface AddFileOptions {
  /**
   * Id of the task: 64 printable ASCII characters; dfdaemon uses hex digits. Default: the SHA-256
   * of the file's content, in hex.
   */
  readonly taskId?: string | undefined;
  /** Kind of the task. Default: `standard`. */
  readonly kind?: PieceKind | undefined;
  /**
   * Length of each piece except the last, from 1 byte to 64 MiB. Default: derived from the content
   * length in the same way as dfdaemon.
   */
  readonly pieceLength?: number | bigint | undefined;
  /**
   * Called after each indexed chunk, with the number of bytes indexed so far and the length of the
   * file in bytes. Exceptions of the callback are ignored.
   */
  readonly onProgress?: ((indexed: number, total: number) => void) | undefined;
  /** Aborts the indexing of the file. */
  readonly signal?: AbortSignal | undefined;
}

/** Replaces the hash functions of a store. */
let setHashers: (store: FilePieceStore, hashers: HasherFactory) => void;

/**
 * Piece store that serves files as tasks, directly from disk.
 *
 * Adding a file reads the file once, to compute the digests of its pieces and of its complete
 * content. It also computes a CRC-32 of each 512 KiB chunk. These checksums form an index in
 * memory, of four bytes per chunk and four bytes per piece.
 *
 * The file stays open, with one descriptor, until it is removed or the store is closed. So the
 * store serves the indexed file even if its path is renamed or replaced.
 *
 * When the content, size or modification time of a file changes, the store refuses its pieces until
 * the file is removed and added again. Before it yields a chunk, the store verifies the CRC-32 of
 * the chunk. The modification time alone is not enough: a write within one clock tick, or to mapped
 * memory, does not change it. So no reader receives a mixture of old and new bytes.
 *
 * The creation time of a piece is the modification time of its file. Task ids from the network are
 * only looked up among the added tasks and are never used as file names.
 *
 * @example
 * ```ts
 * import { FilePieceStore, startServer } from "vortex-peer";
 *
 * const store = new FilePieceStore();
 * const { taskId } = await store.addFile("model.safetensors");
 * const server = await startServer({ store, tcp: { port: 4005 }, grpc: { port: 4000 } });
 * console.log(`serving ${taskId}`);
 * await server.close();
 * await store.close();
 * ```
 */
export class FilePieceStore implements PieceStore {
  #hashers: HasherFactory = nativeHashers;
  /** Files of each task, by task id. All files of a task have the same content. */
  readonly #files = new Map<string, readonly IndexedFile[]>();
  #closed = false;

  static {
    setHashers = (store, hashers) => {
      store.#hashers = hashers;
    };
  }

  /**
   * Indexes a file and starts to serve it as a task. Symbolic links are resolved once. An empty
   * file becomes a task without pieces.
   *
   * If the id belongs to a task with the same content, kind and piece length, the file becomes a
   * second file of that task. The task is served while at least one of its files is unchanged.
   *
   * Rejects with `StorageFailed` if `path` is not a regular file, cannot be read, or changes while
   * it is indexed. Rejects with `InvalidArgument` if an option is out of range, or if the id
   * belongs to a different task. Rejects with `Aborted` if `signal` aborts, and with `Closed` if
   * the store is closed.
   */
  async addFile(path: string, options: AddFileOptions = {}): Promise<StoredTask> {
    text("path", path);
    requireOptions("addFile", options, addFileChecks);
    this.#requireOpen();
    const file = await IndexedFile.open(path, options, this.#hashers);
    const { taskId } = file.task;
    const [first, ...others] = this.#files.get(taskId) ?? [];
    try {
      this.#requireOpen();
      if (first !== undefined && !file.isOfSameTask(first)) {
        throw new VortexError(
          "InvalidArgument",
          `${path}: expected the content, kind and piece length of ${first.path}, which serves task ${taskId}, got others`,
        );
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    this.#files.set(taskId, first === undefined ? [file] : [first, ...others, file]);
    return first?.task ?? file.task;
  }

  /**
   * Removes a task and closes its files; piece reads in progress fail. Returns false if the store
   * does not have the task.
   */
  async deleteTask(taskId: string): Promise<boolean> {
    const files = this.#files.get(taskId) ?? [];
    this.#files.delete(taskId);
    await Promise.all(files.map((file) => file.close()));
    return files.length > 0;
  }

  async getPiece({ taskId, number, kind }: StoredPieceRequest): Promise<StoredPiece | undefined> {
    const files = this.#files.get(taskId);
    const task = files?.[0]?.task;
    if (files === undefined || task?.kind !== kind) return undefined;
    if (number >= planTask(task.contentLength, task.pieceLength).pieceCount) return undefined;
    // A changed file fails here, before an answer begins, and not in the middle of a piece.
    const file = await firstUnchanged(files);
    return { metadata: file.metadata(number), read: (range) => file.read(number, range) };
  }

  async getTask(taskId: string): Promise<StoredTask | undefined> {
    return this.#files.get(taskId)?.[0]?.task;
  }

  /** Removes all tasks and closes their files; piece reads in progress fail. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#files.keys()].map((taskId) => this.deleteTask(taskId)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #requireOpen(): void {
    if (this.#closed) throw new VortexError("Closed", "file store is closed");
  }
}

/** Creates a {@link FilePieceStore} with other hash functions than the native ones; for tests. */
export function filePieceStoreWith(hashers: HasherFactory): FilePieceStore {
  const store = new FilePieceStore();
  setHashers(store, hashers);
  return store;
}

/** Size in bytes and modification time of a file, to detect changes of its content. */
interface FileStamp {
  readonly size: bigint;
  readonly mtimeNs: bigint;
}

/**
 * Result of indexing a file: its division into pieces, its checksums, and its size and modification
 * time.
 */
interface Index {
  readonly plan: TaskPlan;
  readonly stamp: FileStamp;
  /** CRC-32 of each piece. The index of the array is the piece number. */
  readonly crc32: Uint32Array;
  /**
   * CRC-32 of each chunk, in the order of the pieces. Every piece has the same number of entries.
   */
  readonly chunks: Uint32Array;
  /** SHA-256 of the file's content, in hex. */
  readonly sha256: string;
}

/**
 * Returns the first file that has not changed since it was indexed. If all files have changed,
 * rejects with the error of the first file.
 */
async function firstUnchanged(files: readonly IndexedFile[]): Promise<IndexedFile> {
  let failure: unknown;
  for (const file of files) {
    try {
      await file.requireUnchanged();
      return file;
    } catch (error) {
      failure ??= error;
    }
  }
  throw failure;
}

/** Open file of a task, with the digests of its pieces. */
class IndexedFile {
  readonly task: StoredTask;
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #index: Index;
  readonly #hashers: HasherFactory;
  readonly #pending = new Set<Promise<unknown>>();
  /** Number of piece reads in progress. */
  #readers = 0;
  #closingHandle: Promise<void> | undefined;

  static async open(
    path: string,
    options: AddFileOptions,
    hashers: HasherFactory,
  ): Promise<IndexedFile> {
    const handle = await openRegular(path);
    try {
      const index = await indexFile(path, handle, options, hashers);
      return new IndexedFile(path, handle, index, options, hashers);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  private constructor(
    path: string,
    handle: FileHandle,
    index: Index,
    options: AddFileOptions,
    hashers: HasherFactory,
  ) {
    this.path = path;
    this.#handle = handle;
    this.#index = index;
    this.#hashers = hashers;
    const { contentLength, pieceLength } = index.plan;
    this.task = {
      taskId: options.taskId ?? index.sha256,
      kind: options.kind ?? "standard",
      contentLength,
      pieceLength,
      digest: `sha256:${index.sha256}`,
      createdAtSeconds: this.#createdAtSeconds,
      pieces: () => this.#pieces(),
    };
  }

  get plan(): TaskPlan {
    return this.#index.plan;
  }

  isOfSameTask({ task }: IndexedFile): boolean {
    const { kind, contentLength, pieceLength, digest } = this.task;
    return (
      task.kind === kind &&
      task.contentLength === contentLength &&
      task.pieceLength === pieceLength &&
      task.digest === digest
    );
  }

  metadata(number: number): PieceMetadata {
    const { offset, length } = pieceExtent(this.plan, number);
    const digest = `crc32:${this.#index.crc32[number]}`;
    const createdAtSeconds = this.#createdAtSeconds;
    return pieceMetadata({ number, offset, length, digest, createdAtSeconds });
  }

  async *read(number: number, range?: ByteRange): AsyncGenerator<Uint8Array> {
    const { length } = pieceExtent(this.plan, number);
    const { start, end } = resolveRange(range, length);
    if (start === end) return;
    // Whole chunks are read, because the index has checksums of whole chunks only.
    this.#readers++;
    try {
      let readahead: Promise<Uint8Array> | undefined;
      for (let at = start - (start % CHUNK_BYTES); at < end; at += CHUNK_BYTES) {
        const chunk = await (readahead ?? this.#chunk(number, at));
        readahead = undefined;
        // Read one chunk ahead, so that disk and network work in parallel.
        if (at + CHUNK_BYTES < end && this.#readers <= MAX_READAHEAD_READERS) {
          readahead = this.#chunk(number, at + CHUNK_BYTES);
          // The reader may stop before it awaits this chunk.
          readahead.catch(() => {});
        }
        yield chunk.subarray(Math.max(0, start - at), end - at);
      }
    } finally {
      this.#readers--;
    }
  }

  /**
   * Reads the chunk that starts at byte `at` of a piece, and verifies its CRC-32. Rejects with
   * `StorageFailed` if the content has changed since the file was indexed.
   */
  async #chunk(number: number, at: number): Promise<Uint8Array> {
    const { offset, length } = pieceExtent(this.plan, number);
    const chunk = await this.#use((handle) =>
      readAt(handle, this.path, offset + at, Math.min(CHUNK_BYTES, length - at)),
    );
    const indexed = this.#index.chunks[number * chunksIn(this.plan.pieceLength) + at / CHUNK_BYTES];
    const found = checksumOf(chunk, this.#hashers);
    if (found === indexed) return chunk;
    // Gives a more specific error if the size or modification time has changed too.
    await this.requireUnchanged();
    throw new VortexError(
      "StorageFailed",
      `${this.path} changed after indexing: expected CRC-32 ${indexed} for ${chunk.length} bytes at ${offset + at}, got ${found}`,
    );
  }

  /**
   * Checks that the file still has the size and modification time that it had when it was indexed.
   * Rejects with `StorageFailed` if one of them has changed.
   */
  async requireUnchanged(): Promise<void> {
    const { size, mtimeNs } = await this.#use((handle) => stampOf(handle, this.path));
    const { stamp } = this.#index;
    if (size !== stamp.size) {
      throw new VortexError(
        "StorageFailed",
        `${this.path} changed after indexing: expected ${stamp.size} bytes, got ${size}`,
      );
    }
    if (mtimeNs !== stamp.mtimeNs) {
      throw new VortexError(
        "StorageFailed",
        `${this.path} changed after indexing: modification time differs; add the file again`,
      );
    }
  }

  /**
   * Closes the file after all pending operations on it. If the descriptor were closed during an
   * operation, the system could reuse it for another file.
   */
  close(): Promise<void> {
    this.#closingHandle ??= Promise.allSettled(this.#pending).then(() => this.#handle.close());
    return this.#closingHandle;
  }

  async #use<T>(operation: (handle: FileHandle) => Promise<T>): Promise<T> {
    if (this.#closingHandle !== undefined)
      throw new VortexError("Closed", `${this.path} is no longer served`);
    const running = operation(this.#handle);
    this.#pending.add(running);
    try {
      return await running;
    } finally {
      this.#pending.delete(running);
    }
  }

  get #createdAtSeconds(): bigint {
    return this.#index.stamp.mtimeNs / 1_000_000_000n;
  }

  *#pieces(): Generator<PieceMetadata> {
    for (let number = 0; number < this.plan.pieceCount; number++) yield this.metadata(number);
  }
}

async function openRegular(path: string): Promise<FileHandle> {
  try {
    // The type is checked first, because opening a named pipe blocks until it has a writer.
    const stats = await stat(path);
    if (!stats.isFile()) {
      const what = stats.isDirectory() ? "a directory" : "a device, pipe or socket";
      throw new VortexError("StorageFailed", `${path}: expected a file, got ${what}`);
    }
    return await open(path, "r");
  } catch (error) {
    throw storageError(error, `cannot open ${path}`);
  }
}

async function indexFile(
  path: string,
  handle: FileHandle,
  { pieceLength, onProgress, signal }: AddFileOptions,
  hashers: HasherFactory,
): Promise<Index> {
  const stamp = await stampOf(handle, path);
  const contentLength = Number(stamp.size);
  const plan = planTask(contentLength, pieceLength ?? pieceLengthFor(contentLength));
  const crc32 = new Uint32Array(plan.pieceCount);
  const chunks = new Uint32Array(plan.pieceCount * chunksIn(plan.pieceLength));
  const whole = hashers("sha256");
  const buffer = new Uint8Array(Math.min(CHUNK_BYTES, contentLength));
  for (let number = 0; number < plan.pieceCount; number++) {
    const { offset, length } = pieceExtent(plan, number);
    for (let at = 0; at < length; at += CHUNK_BYTES) {
      if (signal?.aborted) throw abortedError(signal, `indexing ${path}`);
      const chunk = await readAt(
        handle,
        path,
        offset + at,
        Math.min(CHUNK_BYTES, length - at),
        buffer,
      );
      const checksum = checksumOf(chunk, hashers);
      chunks[number * chunksIn(plan.pieceLength) + at / CHUNK_BYTES] = checksum;
      crc32[number] =
        at === 0 ? checksum : crc32Combine(crc32[number] ?? 0, checksum, chunk.length);
      whole.update(chunk);
      const indexed = offset + at + chunk.length;
      notify(() => onProgress?.(indexed, contentLength));
    }
  }
  const after = await stampOf(handle, path);
  if (after.size !== stamp.size || after.mtimeNs !== stamp.mtimeNs) {
    throw new VortexError(
      "StorageFailed",
      `${path} changed during indexing: size or modification time differs; add the file again`,
    );
  }
  return { plan, stamp, crc32, chunks, sha256: whole.encode() };
}

async function stampOf(handle: FileHandle, path: string): Promise<FileStamp> {
  try {
    return await handle.stat({ bigint: true });
  } catch (error) {
    throw storageError(error, `cannot read ${path}`);
  }
}

/**
 * Reads exactly `length` bytes of a file, starting at byte `position`. Reads into `buffer` if
 * given, otherwise into a new array. Rejects with `StorageFailed` if the file ends earlier.
 */
async function readAt(
  handle: FileHandle,
  path: string,
  position: number,
  length: number,
  buffer: Uint8Array = new Uint8Array(length),
): Promise<Uint8Array> {
  for (let filled = 0; filled < length; ) {
    const { bytesRead } = await handle
      .read(buffer, filled, length - filled, position + filled)
      .catch((error: unknown) => Promise.reject(storageError(error, `cannot read ${path}`)));
    if (bytesRead === 0) {
      throw new VortexError(
        "StorageFailed",
        `${path} truncated during a read: it ends at byte ${position + filled}`,
      );
    }
    filled += bytesRead;
  }
  return buffer.subarray(0, length);
}

/**
 * Returns the number of chunks in a piece of `pieceLength` bytes. The last chunk may be shorter.
 */
function chunksIn(pieceLength: number): number {
  return Math.ceil(pieceLength / CHUNK_BYTES);
}

function checksumOf(bytes: Uint8Array, hashers: HasherFactory): number {
  const hasher = hashers("crc32");
  hasher.update(bytes);
  return Number(hasher.encode());
}

const addFileChecks: Checks<AddFileOptions> = {
  taskId(name, value) {
    if (typeof value !== "string" || !/^[!-~]{64}$/.test(value))
      throw invalid(name, "64 printable ASCII characters", value);
  },
  kind: oneOf(...pieceKinds),
  pieceLength: size(1, MAX_PIECE_LENGTH),
  onProgress: callback,
  signal: abortSignal,
};

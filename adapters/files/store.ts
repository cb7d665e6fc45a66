import { type FileHandle, open, stat } from "node:fs/promises";
import { resolveRange } from "../../src/client/call/piece-content.ts";
import { crc32Combine } from "../../src/digest/crc32-combine.ts";
import type { HasherFactory } from "../../src/digest/hasher.ts";
import { abortedError, VortexError } from "../../src/errors.ts";
import {
  type ByteRange,
  MAX_PIECE_LENGTH,
  type PieceKind,
  type PieceMetadata,
  pieceExtent,
  pieceLengthFor,
  planTask,
  requireInteger,
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

/** Bytes in a chunk that is handed to a transport; each has a checksum of its own, from the first byte of its piece on. */
const CHUNK = 512 * 1024;

/** Readers at a time for whom a chunk is read ahead. Beyond them the disk has enough to do, and the memory is for others. */
const MAX_AHEAD = 64;

/** How a file becomes a task. */
export interface AddFileOptions {
  /** 64 printable ASCII characters, hex digits in stock Dragonfly. Default: the SHA-256 of the content, hex. */
  readonly taskId?: string;
  /** Default `standard`. */
  readonly kind?: PieceKind;
  /** Bytes of each piece but the last, 1 to 64 MiB. Default: as stock Dragonfly chooses. */
  readonly pieceLength?: number;
  /** Told, after each read, how many bytes are indexed and how many the file has. */
  readonly onProgress?: (indexed: number, total: number) => void;
  /** Ends the indexing. */
  readonly signal?: AbortSignal;
}

/**
 * Serves files as tasks, straight from disk.
 *
 * Each file is read through once, when it is added, for the digests of its pieces and of the whole; the index takes four
 * bytes for every 512 KiB, and four for every piece. It is kept open until it is removed or the store is closed, one file
 * descriptor a file, so what is served is the file that was indexed, whatever becomes of its name.
 *
 * When its content, size or modification time changes, its pieces are refused until it has been removed and added again. Every
 * chunk is compared with its CRC-32 before it is handed out, since a change need not show in the time (a write within one tick of
 * the clock, or to mapped memory), so no reader gets a mixture of old and new bytes, also not of a part of a piece.
 *
 * A piece counts as created when its file was last modified. Task ids from the network are only looked up among those
 * added. They never name a file.
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
  readonly #hashers: HasherFactory;
  /** Files by task id; those of one task have the same content. */
  readonly #files = new Map<string, readonly IndexedFile[]>();
  #closed = false;

  /** @param hashers default: the runtime's own */
  constructor(hashers: HasherFactory = nativeHashers) {
    this.#hashers = hashers;
  }

  /**
   * Indexes a file and serves it from then on. A symbolic link is followed, once. An empty file is a task of no pieces.
   *
   * A file that makes the same task as one before (equal id, content, kind and piece length) becomes a second source of that task,
   * which is served while one of its files is unchanged.
   *
   * Rejects with `StorageFailed` when `path` is no regular file, cannot be read, or changes while it is indexed;
   * `InvalidArgument` for an option out of its range, or when another task of this id is served; `Aborted`; `Closed`.
   */
  async addFile(path: string, options: AddFileOptions = {}): Promise<StoredTask> {
    if (options.taskId !== undefined) requireTaskId(options.taskId);
    if (options.pieceLength !== undefined)
      requireInteger("piece length", options.pieceLength, 1, MAX_PIECE_LENGTH);
    this.#requireOpen();
    const file = await IndexedFile.open(path, options, this.#hashers);
    const { taskId } = file.task;
    const [first, ...others] = this.#files.get(taskId) ?? [];
    try {
      this.#requireOpen();
      if (first !== undefined && !file.isOfSameTask(first)) {
        throw new VortexError(
          "InvalidArgument",
          `${path}: task ${taskId} is served already, from ${first.path}, with another content, kind or piece length`,
        );
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    this.#files.set(taskId, first === undefined ? [file] : [first, ...others, file]);
    return first?.task ?? file.task;
  }

  /** Stops serving a task and closes its files; pieces that are being read fail. False when there was none. */
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
    // So that a file that has changed is answered with an error, and not with a piece that breaks off.
    const file = await firstUnchanged(files);
    return { metadata: file.metadata(number), read: (range) => file.read(number, range) };
  }

  async getTask(taskId: string): Promise<StoredTask | undefined> {
    return this.#files.get(taskId)?.[0]?.task;
  }

  /** Closes all files; pieces that are being read fail. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#files.keys()].map((taskId) => this.deleteTask(taskId)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #requireOpen(): void {
    if (this.#closed) throw new VortexError("Closed", "the file store is closed");
  }
}

/** What tells that a file is still the one that was indexed. */
interface Stamp {
  readonly size: bigint;
  readonly mtimeNs: bigint;
}

/** What reading a file through once told. */
interface Index {
  readonly plan: TaskPlan;
  readonly stamp: Stamp;
  /** By piece number. */
  readonly crc32: Uint32Array;
  /** Of the chunks, piece after piece. */
  readonly chunks: Uint32Array;
  /** Hex. */
  readonly sha256: string;
}

/** Rejects with what the first file rejects with when all have changed. */
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

class IndexedFile {
  readonly task: StoredTask;
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #index: Index;
  readonly #hashers: HasherFactory;
  readonly #running = new Set<Promise<unknown>>();
  /** Pieces that are being read. */
  #readers = 0;
  #closing: Promise<void> | undefined;

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
    return {
      number,
      offset: BigInt(offset),
      length: BigInt(length),
      digest: `crc32:${this.#index.crc32[number]}`,
      parentId: "",
      trafficType: 2,
      costSeconds: 0n,
      createdAtSeconds: this.#createdAtSeconds,
    };
  }

  async *read(number: number, range?: ByteRange): AsyncGenerator<Uint8Array> {
    const { length } = pieceExtent(this.plan, number);
    const { start, end } = resolveRange(range, length);
    if (start === end) return;
    // Whole chunks, since only these can be compared.
    this.#readers++;
    try {
      let ahead: Promise<Uint8Array> | undefined;
      for (let at = start - (start % CHUNK); at < end; at += CHUNK) {
        const chunk = await (ahead ?? this.#chunk(number, at));
        ahead = undefined;
        // One chunk ahead, so that the disk works while the network does.
        if (at + CHUNK < end && this.#readers <= MAX_AHEAD) {
          ahead = this.#chunk(number, at + CHUNK);
          // The reader may not come back for it.
          ahead.catch(() => {});
        }
        yield chunk.subarray(Math.max(0, start - at), end - at);
      }
    } finally {
      this.#readers--;
    }
  }

  /** The chunk of a piece that begins at `at`. Rejects with `StorageFailed` when it is not what was indexed. */
  async #chunk(number: number, at: number): Promise<Uint8Array> {
    const { offset, length } = pieceExtent(this.plan, number);
    const chunk = await this.#use((handle) =>
      readAt(handle, this.path, offset + at, Math.min(CHUNK, length - at)),
    );
    const indexed = this.#index.chunks[number * chunksIn(this.plan.pieceLength) + at / CHUNK];
    const found = checksumOf(chunk, this.#hashers);
    if (found === indexed) return chunk;
    // In words that say more, where the change shows.
    await this.requireUnchanged();
    throw new VortexError(
      "StorageFailed",
      `${this.path} has CRC-32 ${found} for ${chunk.length} bytes at ${offset + at}, it was indexed with ${indexed}`,
    );
  }

  /** Rejects with `StorageFailed` when the file is not what it was when it was indexed. */
  async requireUnchanged(): Promise<void> {
    const { size, mtimeNs } = await this.#use((handle) => stampOf(handle, this.path));
    const { stamp } = this.#index;
    if (size !== stamp.size) {
      throw new VortexError(
        "StorageFailed",
        `${this.path} has ${size} bytes, it was indexed with ${stamp.size}`,
      );
    }
    if (mtimeNs !== stamp.mtimeNs) {
      throw new VortexError(
        "StorageFailed",
        `${this.path} was written to after it had been indexed`,
      );
    }
  }

  /** Waits for the operations under way: a descriptor that is closed under them may name another file by then. */
  close(): Promise<void> {
    this.#closing ??= Promise.allSettled(this.#running).then(() => this.#handle.close());
    return this.#closing;
  }

  async #use<T>(operation: (handle: FileHandle) => Promise<T>): Promise<T> {
    if (this.#closing !== undefined)
      throw new VortexError("Closed", `${this.path} is not served any more`);
    const running = operation(this.#handle);
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
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
    // Looked at first, since opening a named pipe would wait for somebody to write to it.
    const stats = await stat(path);
    if (!stats.isFile()) {
      const what = stats.isDirectory() ? "a directory" : "a device, pipe or socket";
      throw new VortexError("StorageFailed", `${path} is ${what}, not a file`);
    }
    return await open(path, "r");
  } catch (error) {
    throw storageError(error, `${path} cannot be opened`);
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
  const buffer = new Uint8Array(Math.min(CHUNK, contentLength));
  for (let number = 0; number < plan.pieceCount; number++) {
    const { offset, length } = pieceExtent(plan, number);
    for (let at = 0; at < length; at += CHUNK) {
      if (signal?.aborted) throw abortedError(signal, `indexing ${path}`);
      const chunk = await readAt(handle, path, offset + at, Math.min(CHUNK, length - at), buffer);
      const checksum = checksumOf(chunk, hashers);
      chunks[number * chunksIn(plan.pieceLength) + at / CHUNK] = checksum;
      crc32[number] =
        at === 0 ? checksum : crc32Combine(crc32[number] ?? 0, checksum, chunk.length);
      whole.update(chunk);
      onProgress?.(offset + at + chunk.length, contentLength);
    }
  }
  const after = await stampOf(handle, path);
  if (after.size !== stamp.size || after.mtimeNs !== stamp.mtimeNs) {
    throw new VortexError("StorageFailed", `${path} was written to while it was indexed`);
  }
  return { plan, stamp, crc32, chunks, sha256: whole.encode() };
}

async function stampOf(handle: FileHandle, path: string): Promise<Stamp> {
  try {
    return await handle.stat({ bigint: true });
  } catch (error) {
    throw storageError(error, `${path} cannot be read`);
  }
}

/** Exactly `length` bytes from `position` on, in `buffer` or in a new one, which is then the caller's to keep. */
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
      .catch((error: unknown) => Promise.reject(storageError(error, `${path} cannot be read`)));
    if (bytesRead === 0) {
      throw new VortexError(
        "StorageFailed",
        `${path} ends at byte ${position + filled}: it was cut while being read`,
      );
    }
    filled += bytesRead;
  }
  return buffer.subarray(0, length);
}

/** Chunks of a piece; its last one may be short. */
function chunksIn(pieceLength: number): number {
  return Math.ceil(pieceLength / CHUNK);
}

function checksumOf(bytes: Uint8Array, hashers: HasherFactory): number {
  const hasher = hashers("crc32");
  hasher.update(bytes);
  return Number(hasher.encode());
}

function requireTaskId(taskId: string): void {
  if (!/^[!-~]{64}$/.test(taskId)) {
    throw new VortexError(
      "InvalidArgument",
      `task id "${taskId}": expected 64 printable ASCII characters`,
    );
  }
}

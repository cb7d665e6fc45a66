import {
  bytes,
  type Checks,
  oneOf,
  requireInteger,
  requireOptions,
  size,
  text,
} from "../arguments.ts";
import { digestOf } from "../digest/digest.ts";
import type { HasherFactory } from "../digest/hasher.ts";
import { portableHashers } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import {
  type PieceKind,
  type PieceMetadata,
  pieceExtent,
  pieceKinds,
  pieceMetadata,
  planTask,
  type TaskPlan,
} from "../piece.ts";
import { PieceFeed } from "./piece-feed.ts";
import type { PieceStore, StoredPiece, StoredPieceRequest, StoredTask } from "./store.ts";

/** Maximum length of the chunks that `StoredPiece.read` yields, in bytes. */
const CHUNK_BYTES = 256 * 1024;

/** Options of a task in a {@link MemoryPieceStore}. */
export interface MemoryTaskOptions {
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind | undefined;
  /**
   * Length in bytes of every piece except the last, which may be shorter. Default: the length that
   * stock Dragonfly chooses, see `pieceLengthFor`.
   */
  readonly pieceLength?: number | bigint | undefined;
  /** Time at which the task was created, in Unix seconds. Default 0. */
  readonly createdAtSeconds?: number | bigint | undefined;
  /**
   * Digest of the complete content in the form `algorithm:encoded`, such as `sha256:…`. The server
   * sends it to peers. The store does not verify it. Default: none.
   */
  readonly digest?: string | undefined;
}

/** Handle to add pieces to a task that a {@link MemoryPieceStore} serves already. */
export interface GrowingTask {
  /** Task as the store serves it. Each call of {@link putPiece} adds a piece to it. */
  readonly task: StoredTask;
  /**
   * Adds a piece to the task. The task is complete once all its pieces are present. The store does
   * not copy `content`, so the caller must not change it afterwards.
   *
   * @throws `InvalidArgument` if the number or length does not fit the task, or the piece is
   * already present
   * @throws `Closed` after a call of {@link fail}
   */
  putPiece(number: number, content: Uint8Array): void;
  /**
   * Abandons the task: removes it from the store. Iterations over `StoredTask.watch` throw `error`.
   */
  fail(error: VortexError): void;
}

interface Entry {
  readonly task: StoredTask;
  readonly pieces: ReadonlyMap<
    number,
    { readonly metadata: PieceMetadata; readonly content: Uint8Array }
  >;
}

/** Replaces the hash functions of a store. */
let setHashers: (store: MemoryPieceStore, hashers: HasherFactory) => void;

/**
 * Piece store that holds the content of all tasks in memory.
 *
 * @example
 * ```ts
 * import { MemoryPieceStore, startServer } from "vortex-peer";
 *
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * const store = new MemoryPieceStore();
 * store.putTask(taskId, new Uint8Array(10_000_000));
 * const server = await startServer({ store, tcp: { port: 4005 } });
 * console.log(server.addresses.tcp);
 * await server.close();
 * ```
 */
export class MemoryPieceStore implements PieceStore {
  #hashers: HasherFactory = portableHashers;
  readonly #tasks = new Map<string, Entry>();

  static {
    setHashers = (store, hashers) => {
      store.#hashers = hashers;
    };
  }

  /**
   * Adds a complete task. Replaces a task with the same ID. The store does not copy `content`, so
   * the caller must not change it afterwards.
   *
   * @throws `InvalidArgument` if an argument or option is invalid
   */
  putTask(taskId: string, content: Uint8Array, options: MemoryTaskOptions = {}): StoredTask {
    bytes("content", content);
    requireTask("putTask", taskId, options);
    const plan = planTask(content.length, options.pieceLength);
    const growing = this.#start(taskId, plan, options);
    for (let number = 0; number < plan.pieceCount; number++) {
      const { offset, length } = pieceExtent(plan, number);
      growing.putPiece(number, content.subarray(offset, offset + length));
    }
    return growing.task;
  }

  /**
   * Adds a task that has no pieces yet. Replaces a task with the same ID. The caller adds the
   * pieces through the returned handle.
   *
   * @param contentLength length of the complete content, in bytes
   * @throws `InvalidArgument` if `contentLength` is not a non-negative integer, or
   * `options.pieceLength` is not a positive integer
   */
  startTask(
    taskId: string,
    contentLength: number | bigint,
    options: MemoryTaskOptions = {},
  ): GrowingTask {
    requireTask("startTask", taskId, options);
    return this.#start(taskId, planTask(contentLength, options.pieceLength), options);
  }

  /** Removes a task from the store. Returns false if the store did not contain it. */
  deleteTask(taskId: string): boolean {
    return this.#tasks.delete(taskId);
  }

  async getPiece({ taskId, number, kind }: StoredPieceRequest): Promise<StoredPiece | undefined> {
    const entry = this.#tasks.get(taskId);
    const piece = entry?.pieces.get(number);
    if (entry === undefined || piece === undefined || entry.task.kind !== kind) return undefined;
    const { metadata, content } = piece;
    return {
      metadata,
      async *read(range) {
        const end = Math.min(range?.end ?? content.length, content.length);
        for (let at = range?.start ?? 0; at < end; at += CHUNK_BYTES)
          yield content.subarray(at, Math.min(at + CHUNK_BYTES, end));
      },
    };
  }

  async getTask(taskId: string): Promise<StoredTask | undefined> {
    return this.#tasks.get(taskId)?.task;
  }

  #start(taskId: string, plan: TaskPlan, options: MemoryTaskOptions): GrowingTask {
    const { kind = "standard", digest } = options;
    const createdAtSeconds = BigInt(options.createdAtSeconds ?? 0);
    const pieces = new Map<number, { metadata: PieceMetadata; content: Uint8Array }>();
    const feed = new PieceFeed(taskId);
    const task: StoredTask = {
      taskId,
      kind,
      contentLength: plan.contentLength,
      pieceLength: plan.pieceLength,
      ...(digest !== undefined && { digest }),
      createdAtSeconds,
      get complete() {
        return feed.ended;
      },
      pieces: () => feed.pieces(),
      watch: (watching) => feed.watch(watching),
    };
    this.#tasks.set(taskId, { task, pieces });
    if (plan.pieceCount === 0) feed.complete();
    return {
      task,
      putPiece: (number, content) => {
        bytes("content", content);
        requireInteger("piece number", number, 0, plan.pieceCount - 1);
        const { offset, length } = pieceExtent(plan, number);
        requireInteger(`length of piece ${number}`, content.length, length, length);
        if (pieces.has(number))
          throw new VortexError(
            "InvalidArgument",
            `piece ${number}: expected a missing piece, got one that is already present`,
          );
        if (feed.failed) throw new VortexError("Closed", `task ${taskId} was abandoned`);
        const digest = digestOf("crc32", content, this.#hashers);
        const metadata = pieceMetadata({ number, offset, length, digest, createdAtSeconds });
        pieces.set(number, { metadata, content });
        feed.add(metadata);
        if (pieces.size === plan.pieceCount) feed.complete();
      },
      fail: (error) => {
        if (this.#tasks.get(taskId)?.task === task) this.#tasks.delete(taskId);
        feed.fail(error);
      },
    };
  }
}

const taskChecks: Checks<MemoryTaskOptions> = {
  kind: oneOf(...pieceKinds),
  pieceLength: size(1),
  createdAtSeconds: size(0),
  digest: text,
};

function requireTask(owner: string, taskId: string, options: MemoryTaskOptions): void {
  text("taskId", taskId);
  requireOptions(owner, options, taskChecks);
}

/**
 * Creates a {@link MemoryPieceStore} with other hash functions than the portable ones, such as
 * `nativeHashers` of a runtime.
 */
export function memoryPieceStoreWith(hashers: HasherFactory): MemoryPieceStore {
  const store = new MemoryPieceStore();
  setHashers(store, hashers);
  return store;
}

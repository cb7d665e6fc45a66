import { digestOf } from "../digest/digest.ts";
import type { HasherFactory } from "../digest/hasher.ts";
import { portableHashers } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import {
  type PieceKind,
  type PieceMetadata,
  pieceExtent,
  planTask,
  requireInteger,
  type TaskPlan,
} from "../piece.ts";
import { PieceFeed } from "./piece-feed.ts";
import type { PieceStore, StoredPiece, StoredPieceRequest, StoredTask } from "./store.ts";

/** Bytes in a chunk that is handed to a transport. */
const CHUNK = 256 * 1024;

/** How a task is kept in memory. */
export interface MemoryTaskOptions {
  /** Default `standard`. */
  readonly kind?: PieceKind;
  /** Bytes of each piece but the last. Default: as stock Dragonfly chooses. */
  readonly pieceLength?: number;
  /** Unix seconds. Default 0. */
  readonly createdAtSeconds?: bigint;
  /** Digest of the whole content, `algorithm:encoded`, that peers are told. Default: none. */
  readonly digest?: string;
}

/** A task that is served while its pieces come. */
export interface GrowingTask {
  /** The task, as the store tells of it; its pieces grow. */
  readonly task: StoredTask;
  /**
   * Adds a piece; the store keeps `content`, which must not change any more. With the last missing one the task is complete.
   * @throws `InvalidArgument` for a number or length that is not of the task, or a piece that is there already; `Closed` after
   * the task was given up
   */
  putPiece(number: number, content: Uint8Array): void;
  /** Gives the task up: whoever watches it hears of `error`, and the store forgets it. */
  fail(error: VortexError): void;
}

interface Entry {
  readonly task: StoredTask;
  readonly pieces: ReadonlyMap<
    number,
    { readonly metadata: PieceMetadata; readonly content: Uint8Array }
  >;
}

/**
 * A store that holds tasks in memory.
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
  readonly #hashers: HasherFactory;
  readonly #tasks = new Map<string, Entry>();

  constructor(hashers: HasherFactory = portableHashers) {
    this.#hashers = hashers;
  }

  /**
   * Adds a task, or replaces one. The store keeps `content`, which must not change any more.
   * @throws `InvalidArgument` for a piece length that is none
   */
  putTask(taskId: string, content: Uint8Array, options: MemoryTaskOptions = {}): StoredTask {
    const plan = planTask(content.length, options.pieceLength);
    const growing = this.#start(taskId, plan, options);
    for (let number = 0; number < plan.pieceCount; number++) {
      const { offset, length } = pieceExtent(plan, number);
      growing.putPiece(number, content.subarray(offset, offset + length));
    }
    return growing.task;
  }

  /**
   * Adds a task of `contentLength` bytes without pieces, or replaces one.
   * @throws `InvalidArgument` for a length that is none
   */
  startTask(taskId: string, contentLength: number, options: MemoryTaskOptions = {}): GrowingTask {
    return this.#start(taskId, planTask(contentLength, options.pieceLength), options);
  }

  /** Forgets a task; false when there was none. */
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
        for (let at = range?.start ?? 0; at < end; at += CHUNK)
          yield content.subarray(at, Math.min(at + CHUNK, end));
      },
    };
  }

  async getTask(taskId: string): Promise<StoredTask | undefined> {
    return this.#tasks.get(taskId)?.task;
  }

  #start(taskId: string, plan: TaskPlan, options: MemoryTaskOptions): GrowingTask {
    const { kind = "standard", createdAtSeconds = 0n, digest } = options;
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
        requireInteger("piece number", number, 0, plan.pieceCount - 1);
        const { offset, length } = pieceExtent(plan, number);
        requireInteger(`length of piece ${number}`, content.length, length, length);
        if (pieces.has(number))
          throw new VortexError("InvalidArgument", `piece ${number} is there already`);
        if (feed.failed) throw new VortexError("Closed", `task ${taskId} was given up`);
        const metadata = {
          number,
          offset: BigInt(offset),
          length: BigInt(length),
          digest: digestOf("crc32", content, this.#hashers),
          parentId: "",
          trafficType: 2,
          costSeconds: 0n,
          createdAtSeconds,
        };
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

import { digestOf } from "../digest/digest.ts";
import type { HasherFactory } from "../digest/hasher.ts";
import { portableHashers } from "../digest/hasher.ts";
import { type PieceKind, type PieceMetadata, pieceExtent, planTask } from "../piece.ts";
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
}

/** A store that holds whole tasks in memory. */
export class MemoryPieceStore implements PieceStore {
  readonly #hashers: HasherFactory;
  readonly #tasks = new Map<string, { task: StoredTask; metadata: PieceMetadata[]; content: Uint8Array }>();

  constructor(hashers: HasherFactory = portableHashers) {
    this.#hashers = hashers;
  }

  /** Adds a task, or replaces one. The store keeps `content`, which must not change any more. */
  putTask(taskId: string, content: Uint8Array, options: MemoryTaskOptions = {}): StoredTask {
    const plan = planTask(content.length, options.pieceLength);
    const createdAtSeconds = options.createdAtSeconds ?? 0n;
    const metadata: PieceMetadata[] = [];
    for (let number = 0; number < plan.pieceCount; number++) {
      const { offset, length } = pieceExtent(plan, number);
      metadata.push({
        number,
        offset: BigInt(offset),
        length: BigInt(length),
        digest: digestOf("crc32", content.subarray(offset, offset + length), this.#hashers),
        parentId: "",
        trafficType: 2,
        costSeconds: 0n,
        createdAtSeconds,
      });
    }
    const task: StoredTask = {
      taskId,
      kind: options.kind ?? "standard",
      contentLength: plan.contentLength,
      pieceLength: plan.pieceLength,
      createdAtSeconds,
      pieces: () => metadata,
    };
    this.#tasks.set(taskId, { task, metadata, content });
    return task;
  }

  /** Forgets a task; false when there was none. */
  deleteTask(taskId: string): boolean {
    return this.#tasks.delete(taskId);
  }

  async getPiece({ taskId, number, kind }: StoredPieceRequest): Promise<StoredPiece | undefined> {
    const entry = this.#tasks.get(taskId);
    const metadata = entry?.metadata[number];
    if (entry === undefined || metadata === undefined || entry.task.kind !== kind) return undefined;
    const start = Number(metadata.offset);
    const piece = entry.content.subarray(start, start + Number(metadata.length));
    return {
      metadata,
      async *read(range) {
        const end = Math.min(range?.end ?? piece.length, piece.length);
        for (let at = range?.start ?? 0; at < end; at += CHUNK) yield piece.subarray(at, Math.min(at + CHUNK, end));
      },
    };
  }

  async getTask(taskId: string): Promise<StoredTask | undefined> {
    return this.#tasks.get(taskId)?.task;
  }
}

import { implementing, required, requireOptions } from "../arguments.ts";
import { portableHashers } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import {
  type ByteRange,
  type PieceKind,
  type PieceMetadata,
  pieceExtent,
  pieceMetadata,
  planTask,
  type TaskPlan,
} from "../piece.ts";
import type { PieceStore, StoredTask } from "./store.ts";

/** Maximum number of tasks whose piece digests are kept. */
const MAX_TASKS = 256;

/** Content of a {@link contentStore}. */
export interface ContentSource {
  /**
   * Describes a task. Resolves to undefined if there is none with this ID, which comes from a peer
   * and may be any text.
   */
  stat(taskId: string): Promise<ContentStat | undefined>;
  /**
   * Reads a range of the content of a task in order. The chunks are not modified afterwards. Throws
   * if the content cannot be read.
   */
  read(
    taskId: string,
    range: { readonly start: number; readonly end: number },
  ): AsyncIterable<Uint8Array>;
}

/** Description of a task in a {@link contentStore}. */
export interface ContentStat {
  /** Length of the content in bytes. */
  readonly contentLength: number | bigint;
  /** Length of every piece except the last, in bytes. Default: as stock Dragonfly chooses. */
  readonly pieceLength?: number | bigint | undefined;
  /**
   * Digest of the whole content as `algorithm:encoded`. Another digest means other content: the
   * digests of the pieces are computed again. Default: unknown.
   */
  readonly digest?: string | undefined;
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind | undefined;
}

/** Task whose pieces have been hashed, in part or as a whole. */
interface IndexedTask {
  readonly plan: TaskPlan;
  readonly digest: string | undefined;
  readonly pieces: Map<number, Promise<PieceMetadata>>;
}

/**
 * Creates a piece store for content that a program can read at any position, such as objects of an
 * object storage. Each piece is read once more for its digest before it is first served, and all
 * pieces before the task is first listed. The digests of the last 256 tasks are kept, until
 * `contentLength`, `pieceLength` or `digest` of the task changes.
 *
 * @throws `InvalidArgument` if `source` has no `stat` or `read`
 *
 * @example
 * ```ts
 * import { startServer } from "vortex-peer";
 * import { contentStore } from "vortex-peer/tasks";
 *
 * const content = new Uint8Array(4_200_000);
 * const store = contentStore({
 *   stat: async () => ({ contentLength: content.length }),
 *   async *read(_taskId, { start, end }) {
 *     yield content.subarray(start, end);
 *   },
 * });
 * const server = await startServer({ store, tcp: { port: 4005 } });
 * await server.close();
 * ```
 */
export function contentStore(source: ContentSource): PieceStore {
  requireOptions(
    "contentStore",
    { source },
    { source: required(implementing("a source", "stat", "read")) },
  );
  const tasks = new Map<string, IndexedTask>();

  const indexOf = (taskId: string, stat: ContentStat): IndexedTask => {
    const plan = planTask(stat.contentLength, stat.pieceLength ?? undefined);
    const known = tasks.get(taskId);
    const isSame =
      known?.digest === stat.digest &&
      known?.plan.contentLength === plan.contentLength &&
      known.plan.pieceLength === plan.pieceLength;
    const index =
      known !== undefined && isSame ? known : { plan, digest: stat.digest, pieces: new Map() };
    // The order of the map is that of the last use.
    tasks.delete(taskId);
    tasks.set(taskId, index);
    for (const oldest of tasks.keys()) {
      if (tasks.size <= MAX_TASKS) break;
      tasks.delete(oldest);
    }
    return index;
  };

  const metadataOf = (
    { plan, pieces }: IndexedTask,
    taskId: string,
    number: number,
  ): Promise<PieceMetadata> => {
    const known = pieces.get(number);
    if (known !== undefined) return known;
    const hashing = hashPiece(source, taskId, plan, number);
    pieces.set(number, hashing);
    // A failure may be temporary.
    hashing.catch(() => pieces.delete(number));
    return hashing;
  };

  return {
    async getPiece({ taskId, number, kind }) {
      const stat = await source.stat(taskId);
      if (stat === undefined || (stat.kind ?? "standard") !== kind) return undefined;
      const index = indexOf(taskId, stat);
      if (number >= index.plan.pieceCount) return undefined;
      const metadata = await metadataOf(index, taskId, number);
      const { offset, length } = pieceExtent(index.plan, number);
      const read = ({
        start = 0,
        end = length,
      }: Partial<ByteRange> = {}): AsyncIterable<Uint8Array> =>
        source.read(taskId, {
          start: offset + start,
          end: offset + Math.min(end ?? length, length),
        });
      return { metadata, read };
    },
    async getTask(taskId): Promise<StoredTask | undefined> {
      const stat = await source.stat(taskId);
      if (stat === undefined) return undefined;
      const index = indexOf(taskId, stat);
      const { contentLength, pieceLength, pieceCount } = index.plan;
      const pieces: PieceMetadata[] = [];
      for (let number = 0; number < pieceCount; number++)
        pieces.push(await metadataOf(index, taskId, number));
      return {
        taskId,
        kind: stat.kind ?? "standard",
        contentLength,
        pieceLength,
        ...(stat.digest !== undefined && { digest: stat.digest }),
        createdAtSeconds: 0n,
        pieces: () => pieces,
      };
    },
  };
}

/** Reads a piece, and returns its metadata with its CRC-32. */
async function hashPiece(
  source: ContentSource,
  taskId: string,
  plan: TaskPlan,
  number: number,
): Promise<PieceMetadata> {
  const { offset, length } = pieceExtent(plan, number);
  const hasher = portableHashers("crc32");
  let count = 0;
  for await (const chunk of source.read(taskId, { start: offset, end: offset + length })) {
    hasher.update(chunk);
    count += chunk.length;
  }
  if (count !== length) {
    throw new VortexError(
      "StorageFailed",
      `piece ${number} of task ${taskId}: expected ${length} bytes from read, got ${count}`,
    );
  }
  return pieceMetadata({ number, offset, length, digest: `crc32:${hasher.encode()}` });
}

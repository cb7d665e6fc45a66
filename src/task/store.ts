import { abortedError, VortexError } from "../errors.ts";
import type { ByteRange, PieceMetadata } from "../piece.ts";
import { PieceFeed } from "../store/piece-feed.ts";
import type { PieceStore, StoredPiece, StoredPieceRequest, StoredTask } from "../store/store.ts";
import type { TaskLayout } from "./layout.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** Maximum length of a chunk for a transport, in bytes. */
const CHUNK_BYTES = 512 * 1024;

/**
 * Serves the verified pieces of a download while the rest is still being fetched. Pieces that the
 * requested range covers only partly are not served.
 */
export class TaskStore implements PieceStore {
  /** Feed of added pieces, for watchers of the task. */
  #feed: PieceFeed;
  /** Metadata of the pieces that can be served. */
  readonly #metadata = new Map<number, PieceMetadata>();
  #task: { readonly layout: TaskLayout; readonly session: SinkSession } | undefined;
  /**
   * Task as servers see it. It stays the same object, since servers attach their encoded form to
   * it.
   */
  #storedTask: StoredTask | undefined;

  constructor(taskId: string) {
    this.#feed = new PieceFeed(taskId);
  }

  /** Makes the store available, once the layout is known and the sink is open. */
  open(layout: TaskLayout, session: SinkSession): void {
    this.#task = { layout, session };
    this.#storedTask = this.#createStoredTask(layout);
  }

  /** Adds a committed piece. `costSeconds` is the duration of its transfer. */
  add({ number, digest }: SinkPiece, costSeconds: number): void {
    const extent = this.#task?.layout.extent(number);
    if (extent === undefined || extent.length !== this.#task?.layout.part(number)?.length) return;
    const metadata: PieceMetadata = {
      number,
      offset: BigInt(extent.offset),
      length: BigInt(extent.length),
      digest,
      parentId: "",
      trafficType: 1,
      costSeconds: BigInt(Math.floor(costSeconds)),
      createdAtSeconds: unixSeconds(),
    };
    this.#metadata.set(number, metadata);
    this.#feed.add(metadata);
  }

  /**
   * Drops all pieces. Watchers of the task receive `error`, since their peers may have fetched
   * dropped pieces. New watchers see the task from its start again.
   */
  restart(error: VortexError): void {
    const task = this.#task;
    if (task === undefined) return;
    this.#metadata.clear();
    this.#feed.fail(error);
    this.#feed = new PieceFeed(task.layout.taskId);
    this.#storedTask = this.#createStoredTask(task.layout);
  }

  /**
   * Ends the feed of pieces after a successful download. If only a range was requested, the task
   * stays incomplete for other peers.
   */
  complete(digest: string | undefined): void {
    if (this.#storedTask !== undefined && digest !== undefined)
      Object.assign(this.#storedTask, { digest });
    if (this.#task?.layout.isWhole) this.#feed.complete();
    else
      this.#feed.fail(
        new VortexError(
          "NotFound",
          "announcements of the task ended: this peer fetches no more of its pieces",
        ),
      );
  }

  /** Stops serving, since the download has failed. */
  fail(error: VortexError): void {
    this.#task = undefined;
    this.#metadata.clear();
    this.#feed.fail(error);
  }

  async getPiece({ taskId, number, kind }: StoredPieceRequest): Promise<StoredPiece | undefined> {
    const task = this.#task;
    const metadata = this.#metadata.get(number);
    if (task === undefined || metadata === undefined) return undefined;
    const { layout, session } = task;
    if (layout.taskId !== taskId || layout.kind !== kind || session.holds?.(number) === false)
      return undefined;
    return { metadata, read: (range) => readPiece(task.layout, session, number, range) };
  }

  async getTask(
    taskId: string,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<StoredTask | undefined> {
    if (signal?.aborted) throw abortedError(signal, `looking for task ${taskId}`);
    return this.#task?.layout.taskId === taskId ? this.#storedTask : undefined;
  }

  /**
   * Returns the task as servers see it; undefined if its pieces vary in length, which the Dragonfly
   * API cannot express.
   */
  #createStoredTask({
    taskId,
    kind,
    contentLength,
    pieceLength,
  }: TaskLayout): StoredTask | undefined {
    if (pieceLength === undefined) return undefined;
    const feed = this.#feed;
    return {
      taskId,
      kind,
      contentLength,
      pieceLength,
      createdAtSeconds: unixSeconds(),
      get complete() {
        return feed.ended;
      },
      pieces: () => feed.pieces(),
      watch: (options) => feed.watch(options),
    };
  }
}

/** Reads a piece from the sink in chunks. */
async function* readPiece(
  layout: TaskLayout,
  session: SinkSession,
  number: number,
  range: ByteRange | undefined,
): AsyncGenerator<Uint8Array> {
  const part = layout.part(number);
  if (part === undefined) return;
  const end = Math.min(range?.end ?? part.length, part.length);
  for (let at = range?.start ?? 0; at < end; ) {
    const chunk = await session.read(number, part.position + at, Math.min(CHUNK_BYTES, end - at));
    at += chunk.length;
    yield chunk;
  }
}

function unixSeconds(): bigint {
  return BigInt(Math.floor(Date.now() / 1000));
}

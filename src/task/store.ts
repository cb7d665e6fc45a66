import { abortedError, untilAborted, VortexError } from "../errors.ts";
import { type ByteRange, type PieceMetadata, pieceMetadata } from "../piece.ts";
import { PieceFeed } from "../store/piece-feed.ts";
import type { PieceStore, StoredPiece, StoredPieceRequest, StoredTask } from "../store/store.ts";
import type { TaskLayout } from "./layout.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** Maximum length of a chunk that the store returns to a server, in bytes. */
const CHUNK_BYTES = 512 * 1024;

/**
 * Serves the verified pieces of a download to other peers, also while other pieces are still being
 * fetched. Pieces that the requested range covers only partly are not served.
 */
export class TaskStore implements PieceStore {
  /** List of the added pieces, which also notifies the watchers of the task. */
  #feed: PieceFeed;
  /** Metadata of the pieces that can be served, by number. */
  readonly #metadata = new Map<number, PieceMetadata>();
  /**
   * Layout and sink session of the download; undefined before the sink is open and after the
   * download failed.
   */
  #task: { readonly layout: TaskLayout; readonly session: SinkSession } | undefined;
  /**
   * Task as servers see it; undefined before {@link open}, or if its pieces vary in length. It is
   * the same object until {@link restart}, since servers attach the encoded task to it.
   */
  #storedTask: StoredTask | undefined;

  /** ID of the task. */
  readonly #taskId: string;
  /**
   * Resolves once the sink is open or the download has failed; undefined afterwards.
   */
  #opening: Promise<void> | undefined;
  /** Resolves {@link #opening}. */
  #endOpening: () => void = () => {};

  constructor(taskId: string) {
    this.#taskId = taskId;
    this.#feed = new PieceFeed(taskId);
    this.#opening = new Promise((resolve) => {
      this.#endOpening = () => {
        this.#opening = undefined;
        resolve();
      };
    });
  }

  /** Makes the store available to servers, once the layout is known and the sink is open. */
  open(layout: TaskLayout, session: SinkSession): void {
    this.#task = { layout, session };
    this.#storedTask = this.#createStoredTask(layout);
    this.#endOpening();
  }

  /**
   * Adds a committed piece, unless the requested range covers it only partly.
   *
   * @param costSeconds duration of the transfer in seconds
   */
  add({ number, digest }: SinkPiece, costSeconds: number): void {
    const extent = this.#task?.layout.extent(number);
    if (extent === undefined || extent.length !== this.#task?.layout.part(number)?.length) return;
    const metadata = pieceMetadata({
      ...extent,
      number,
      digest,
      trafficType: 1,
      costSeconds: Math.floor(costSeconds),
      createdAtSeconds: unixSeconds(),
    });
    this.#metadata.set(number, metadata);
    this.#feed.add(metadata);
  }

  /**
   * Drops all pieces, which are then added again. Watchers of the task fail with `error`, since
   * their peers may have fetched dropped pieces. Later watchers receive only pieces that are added
   * afterwards.
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
   * Ends the list of pieces after a successful download. If only a range was requested, watchers
   * fail with `NotFound`, since the task stays incomplete for other peers.
   *
   * @param digest digest of the whole content, as `algorithm:encoded`; undefined if unknown
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

  /**
   * Stops serving pieces, since the download has failed. Watchers of the task fail with `error`.
   */
  fail(error: VortexError): void {
    this.#task = undefined;
    this.#metadata.clear();
    this.#feed.fail(error);
    this.#endOpening();
  }

  /**
   * Returns a verified piece. Returns undefined if the task ID or the kind differ, or if the piece
   * is not in the store or can no longer be read.
   */
  async getPiece({ taskId, number, kind }: StoredPieceRequest): Promise<StoredPiece | undefined> {
    const task = this.#task;
    const metadata = this.#metadata.get(number);
    if (task === undefined || metadata === undefined) return undefined;
    const { layout, session } = task;
    if (layout.taskId !== taskId || layout.kind !== kind || session.canRead?.(number) === false)
      return undefined;
    return { metadata, read: (range) => readPiece(task.layout, session, number, range) };
  }

  /**
   * Returns the task if its ID is `taskId`, once the sink is open. Returns undefined if the ID
   * differs, the download failed, or the pieces vary in length. Rejects with `Aborted` if `signal`
   * aborts.
   */
  async getTask(
    taskId: string,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<StoredTask | undefined> {
    if (signal?.aborted) throw abortedError(signal, `looking for task ${taskId}`);
    if (taskId !== this.#taskId) return undefined;
    if (this.#opening !== undefined)
      await untilAborted(this.#opening, signal, `looking for task ${taskId}`);
    return this.#task === undefined ? undefined : this.#storedTask;
  }

  /**
   * Returns the task as servers see it. Returns undefined if the pieces vary in length, since the
   * Dragonfly API cannot express that.
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

/** Yields the content of a piece, or of a range within the piece, in chunks from the sink. */
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

/** Returns the current wall-clock time, in seconds since the Unix epoch. */
function unixSeconds(): bigint {
  return BigInt(Math.floor(Date.now() / 1000));
}

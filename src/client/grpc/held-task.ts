import { VortexError } from "../../errors.ts";
import { formatPieceRanges, type Piece, type PieceKind } from "../../piece.ts";
import type { TaskStat } from "../task-stat.ts";
import type { FetchedPiece } from "./download-task.ts";
import type { AnnouncedPiece } from "./sync-pieces.ts";

/**
 * Max number of content bytes in flight, unless a single piece is longer. Every piece is held in
 * memory.
 */
const MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024;

/** Requests to the peer that has a task, for {@link heldPieces}. */
export interface HeldTask {
  /** Address of the peer, `host:port`. */
  readonly addr: string;
  /** ID of the task. */
  readonly taskId: string;
  /** Kind of the task. */
  readonly kind: PieceKind;
  /** Requested byte range; `end` is exclusive. Default: the whole task. */
  readonly range?: { readonly start: number; readonly end: number } | undefined;
  /** Maximum number of pieces in flight. */
  readonly concurrentPieceCount: number;
  /** Requests the lengths of the task. */
  stat(): Promise<TaskStat>;
  /** Requests the locations of pieces. */
  sync(numbers: readonly number[], stat: TaskStat): AsyncIterable<AnnouncedPiece>;
  /** Requests a piece at its location. */
  fetch(location: AnnouncedPiece): Promise<Piece>;
}

/**
 * Fetches the pieces of a task that the peer already has, and so does not send in its response to
 * DownloadTask. Yields them in the order of their announcement.
 *
 * Throws `PieceNotFound` if the peer does not announce all requested pieces, `PieceMismatch` if a
 * piece differs from its announcement, and the errors of the requests.
 */
export async function* heldPieces(task: HeldTask): AsyncGenerator<FetchedPiece, void, void> {
  const { addr, taskId, range, concurrentPieceCount } = task;
  const stat = await task.stat();
  const { contentLength, pieceLength } = stat;
  const end = Math.min(range?.end ?? contentLength, contentLength);
  const first = Math.floor((range?.start ?? 0) / pieceLength);
  const count = Math.max(0, Math.ceil(end / pieceLength) - first);
  const missing = new Set(Array.from({ length: count }, (_, index) => first + index));
  if (missing.size === 0) return;
  const maxInFlight = Math.floor(MAX_IN_FLIGHT_BYTES / pieceLength);
  const limit = Math.min(concurrentPieceCount, Math.max(1, maxInFlight));
  const pending: Promise<FetchedPiece>[] = [];
  for await (const location of task.sync([...missing], stat)) {
    missing.delete(location.number);
    const fetched = fetchWhole(task, location);
    // Awaited later; the first rejection ends the iteration.
    fetched.catch(() => {});
    pending.push(fetched);
    const next = pending.length >= limit ? pending.shift() : undefined;
    if (next !== undefined) yield await next;
    if (missing.size === 0) break;
  }
  for (const next of pending) yield await next;
  if (missing.size > 0) {
    throw new VortexError(
      "PieceNotFound",
      `pieces of task ${taskId}: expected all requested ones, the peer lacks ` +
        formatPieceRanges(missing),
      { addr },
    );
  }
}

async function fetchWhole(task: HeldTask, location: AnnouncedPiece): Promise<FetchedPiece> {
  const piece = await task.fetch(location);
  const { number, offset, length, digest, metadata } = piece;
  if (offset !== location.offset || length !== location.length) {
    piece.cancel();
    throw new VortexError(
      "PieceMismatch",
      `piece ${number}: expected ${location.length} bytes at offset ${location.offset} as ` +
        `announced, got ${length} at ${offset}`,
      { addr: task.addr },
    );
  }
  return { number, offset, length, digest, metadata, content: await piece.bytes() };
}

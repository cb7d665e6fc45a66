import type { ByteRange, PieceKind, PieceMetadata } from "../piece.ts";

/**
 * Source of the pieces that a server serves. Implementations: `MemoryPieceStore` here,
 * `FilePieceStore` in the file adapter.
 *
 * A rejection reaches `onError` of the server. The peer receives an internal error without details.
 */
export interface PieceStore {
  /**
   * Looks up a piece; its content is read later. Resolves to undefined when the store does not have
   * it. The signal aborts when the peer or the server no longer needs the answer.
   */
  getPiece(
    request: StoredPieceRequest,
    options?: { readonly signal?: AbortSignal },
  ): Promise<StoredPiece | undefined>;
  /**
   * Looks up a task. Resolves to undefined when the store does not have it. The signal aborts when
   * the peer or the server no longer needs the answer.
   */
  getTask(
    taskId: string,
    options?: { readonly signal?: AbortSignal },
  ): Promise<StoredTask | undefined>;
}

/** Identifies a piece in a store. Untrusted input: a peer may send any text and any number. */
export interface StoredPieceRequest {
  /** ID of the task; any text. */
  readonly taskId: string;
  /** Piece number, an unsigned 32-bit integer. */
  readonly number: number;
  /** Kind of the task. A store must not return a piece of a task of another kind. */
  readonly kind: PieceKind;
}

/** Piece that a store has. */
export interface StoredPiece {
  /** Metadata that is sent to the peer ahead of the content. */
  readonly metadata: PieceMetadata;
  /**
   * Reads the piece, or a range of it, in chunks that the consumer may keep. Pull-based: reads at
   * most one chunk ahead of the iteration. Throws when the bytes can no longer be read, or have
   * changed.
   */
  read(range?: ByteRange): AsyncIterable<Uint8Array>;
}

/** Task that a store has, complete or in part. */
export interface StoredTask {
  /** ID of the task: 64 characters; hex digits in stock Dragonfly. */
  readonly taskId: string;
  /** Kind of the task, and so of all its pieces. */
  readonly kind: PieceKind;
  /** Length of the whole content, in bytes. */
  readonly contentLength: number;
  /** Length of every piece except the last, in bytes. */
  readonly pieceLength: number;
  /** Digest of the whole content, such as `sha256:…`; absent if unknown. */
  readonly digest?: string;
  /** Creation time, in Unix seconds. */
  readonly createdAtSeconds: bigint;
  /**
   * False while pieces are missing: the task is still growing, or was abandoned. Default: true.
   */
  readonly complete?: boolean;
  /** Iterates over the metadata of the pieces in the store now, by ascending number. */
  pieces(): Iterable<PieceMetadata>;
  /**
   * Yields the pieces in the store by ascending number, then each further piece as it arrives. No
   * piece is repeated or missed, so a caller uses `watch()` alone, without `pieces()` before it.
   *
   * Ends when the task is complete, at once if it is already. Throws when the task is abandoned.
   * Throws `Aborted` when the signal aborts, which also releases everything that the iteration
   * holds. Watchers are independent of each other, and a slow one does not delay the task.
   *
   * Absent: the task gets no further pieces, so `pieces()` is final.
   */
  watch?(options: { readonly signal: AbortSignal }): AsyncIterable<PieceMetadata>;
}

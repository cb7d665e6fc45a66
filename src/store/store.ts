import type { ByteRange, PieceKind, PieceMetadata } from "../piece.ts";

/**
 * Storage that contains the pieces that a server serves to peers. Implementations are
 * `MemoryPieceStore` in this library and `FilePieceStore` in the file adapter.
 *
 * Integers may be of type number or bigint, from 0 to `Number.MAX_SAFE_INTEGER`. The server checks
 * them. If one is invalid, or a method rejects, the server passes the error to its option
 * `onError`. The peer receives an internal error without details.
 */
export interface PieceStore {
  /**
   * Looks up a piece. Resolves to its metadata and a function that reads the content. Resolves to
   * undefined if the store does not have the piece. `options.signal` aborts when the peer or the
   * server no longer needs the result.
   */
  getPiece(
    request: StoredPieceRequest,
    options?: { readonly signal?: AbortSignal },
  ): Promise<StoredPiece<number | bigint> | undefined>;
  /**
   * Looks up a task. Resolves to undefined if the store does not have it. `options.signal` aborts
   * when the peer or the server no longer needs the result.
   */
  getTask(
    taskId: string,
    options?: { readonly signal?: AbortSignal },
  ): Promise<StoredTask<number | bigint> | undefined>;
}

/**
 * Task ID, piece number and kind that identify a piece in a store. The values come from a peer and
 * are not validated: expect any text and any number.
 */
export interface StoredPieceRequest {
  /** ID of the task. May be any text. */
  readonly taskId: string;
  /** Number of the piece within the task, an unsigned 32-bit integer. */
  readonly number: number;
  /**
   * Kind of the task. `getPiece` must resolve to undefined if the task in the store is of another
   * kind.
   */
  readonly kind: PieceKind;
}

/**
 * Piece in a store: its metadata, and a function that reads its content.
 *
 * @typeParam Input further types of the integers, `number | bigint` in a custom store
 */
export interface StoredPiece<Input extends number | bigint = never> {
  /** Metadata of the piece, which the server sends to the peer before the content. */
  readonly metadata: PieceMetadata<Input>;
  /**
   * Reads the content of the piece in chunks. With `range`, reads only these bytes. The consumer
   * may keep the chunks, so the store must not reuse their memory. The store reads at most one
   * chunk ahead of the consumer. Throws if the content can no longer be read, or has changed since
   * it was stored.
   */
  read(range?: ByteRange): AsyncIterable<Uint8Array>;
}

/**
 * Task in a store. It is complete, or some of its pieces are missing.
 *
 * @typeParam Input further types of the integers, `number | bigint` in a custom store
 */
export interface StoredTask<Input extends number | bigint = never> {
  /** ID of the task, 64 characters long. Stock Dragonfly uses hex digits. */
  readonly taskId: string;
  /** Kind of the task. All its pieces are of this kind. */
  readonly kind: PieceKind;
  /** Length of the complete content in bytes, also while pieces are missing. */
  readonly contentLength: number | Input;
  /** Length in bytes of every piece except the last, which may be shorter. */
  readonly pieceLength: number | Input;
  /**
   * Digest of the complete content in the form `algorithm:encoded`, such as `sha256:…`. Absent if
   * it is unknown.
   */
  readonly digest?: string;
  /** Time at which the task was created, in Unix seconds. */
  readonly createdAtSeconds: bigint | Input;
  /**
   * False while pieces are missing: further pieces will arrive, or the download was abandoned. True
   * or absent if the task is complete.
   */
  readonly complete?: boolean;
  /**
   * Iterates over the metadata of the pieces that are in the store at the time of the call, in
   * ascending order of their numbers.
   */
  pieces(): Iterable<PieceMetadata<Input>>;
  /**
   * Yields the metadata of the pieces in the store in ascending order of their numbers. Then yields
   * each further piece when it arrives. Each piece is yielded exactly once, so a call of
   * {@link pieces} is not needed in addition.
   *
   * The iteration ends when the task is complete. It throws an error when the download is
   * abandoned, and `Aborted` when `options.signal` aborts. After an abort, the store holds no
   * resources for the iteration. Iterations are independent of each other, and a slow consumer does
   * not delay the task.
   *
   * Absent if the task gets no further pieces; {@link pieces} then returns the final list.
   */
  watch?(options: { readonly signal: AbortSignal }): AsyncIterable<PieceMetadata<Input>>;
}

import type { PieceKind } from "../piece.ts";

/**
 * Destination for the bytes of a task: `memorySink`, the stream of `streamTask`, `fileSink` of the
 * file adapter, or a custom one. A sink serves one download. Opening it returns the session that
 * the download writes to.
 */
export interface TaskSink {
  /**
   * Prepares the destination and returns the session to write to.
   *
   * Rejects with `StorageFailed` if the destination cannot be prepared, and with `InvalidArgument`
   * if the sink is already in use.
   */
  open(layout: SinkLayout, options: SinkOpenOptions): Promise<SinkSession>;
}

/**
 * Layout of the content that a sink receives. All positions count from the first requested byte:
 * position 0 is `range.start` of the request.
 */
export interface SinkLayout {
  /** ID of the task. */
  readonly taskId: string;
  /** Kind of the task. */
  readonly kind: PieceKind;
  /** Length of the whole task in bytes. */
  readonly contentLength: number;
  /**
   * Length of every piece except the last, in bytes; undefined if the caller listed pieces of
   * varying lengths.
   */
  readonly pieceLength: number | undefined;
  /** Length of the longest piece in bytes. */
  readonly longestPiece: number;
  /** Offset of the first requested byte within the task. */
  readonly start: number;
  /** Number of requested bytes. */
  readonly length: number;
  /**
   * Returns the requested part of piece `number`; undefined if the range does not overlap the
   * piece.
   */
  part(number: number): SinkPart | undefined;
}

/** Requested part of one piece. */
export interface SinkPart {
  /** Number of the piece in the task, from 0. */
  readonly number: number;
  /** Position of the part in the sink, in bytes. */
  readonly position: number;
  /** Length of the part in bytes; shorter than the piece if the range starts or ends inside it. */
  readonly length: number;
}

/** Options of {@link TaskSink.open}. */
export interface SinkOpenOptions {
  /** Aborts the opening. */
  readonly signal: AbortSignal;
  /**
   * Digest of the whole content, `algorithm:encoded`, if known. The session must not list resumed
   * pieces of content with a different digest.
   */
  readonly digest?: string | undefined;
  /** Must be called by the session each time {@link SinkSession.limit} has grown. */
  readonly onRoom: () => void;
  /**
   * Must be called by the session when it can accept no more data, for example because its reader
   * cancelled. The download fails with `error`.
   */
  readonly onFailure: (error: unknown) => void;
}

/** Piece whose bytes are completely in the sink and verified. */
export interface SinkPiece {
  /** Number of the piece in the task, from 0. */
  readonly number: number;
  /** Digest of the whole piece, `algorithm:encoded`. */
  readonly digest: string;
  /** CRC-32 of the requested part of the piece. */
  readonly crc32: number;
  /**
   * Parent that it came from. A sink that outlives the process keeps it: a later download compares
   * the pieces of different parents. Default: unknown.
   */
  readonly source?: string;
}

/**
 * Writing side of one download. The download guarantees this order of calls:
 *
 * - Within a piece, one attempt writes at a time, at ascending positions, and awaits each write.
 * - After a failed attempt, the next one writes the whole part again from its start.
 * - `commit` follows the last write of a piece. Nothing is written to a committed piece, unless
 *   `restart` dropped it.
 * - Different pieces are written concurrently.
 * - `advance` follows the commits in ascending order.
 * - `finish` comes once everything is committed and verified.
 *
 * Every method except `abort` rejects with `StorageFailed` if the sink fails, which fails the
 * download.
 */
export interface SinkSession {
  /**
   * Pieces that an earlier download left in the sink, according to its own records. The download
   * reads and verifies them before it counts them.
   */
  readonly resumed: readonly SinkPiece[];
  /**
   * Backpressure: only pieces that end at or before this position may be requested. The limit never
   * shrinks. It always allows the first uncommitted piece, once all bytes before that piece have
   * been consumed. Absent: all pieces may be requested.
   */
  readonly limit?: number;
  /**
   * Writes bytes of a piece that is not verified yet. The memory of `chunk` is reused after the
   * returned promise has resolved.
   */
  write(number: number, position: number, chunk: Uint8Array): Promise<void>;
  /** Marks a piece as complete and verified. From now on it can be read. */
  commit(piece: SinkPiece): Promise<void>;
  /**
   * Reads at least one and at most `length` bytes from `position` on. The range lies within one
   * committed or resumed piece.
   *
   * @param into scratch memory of `length` bytes that the session may fill and return, to save an
   * allocation. With it, the session may also return its own memory: the caller uses the chunk only
   * once, before the piece is handed on. Without it, the caller may keep the chunk.
   */
  read(number: number, position: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /**
   * Keeps only the given committed or resumed pieces; all others are written again. No other call
   * is in progress meanwhile. Absent: committed pieces cannot be dropped.
   */
  restart?(kept: readonly SinkPiece[]): Promise<void>;
  /** Returns true if a committed piece can still be read. Absent: always true. */
  holds?(number: number): boolean;
  /**
   * Reports that all bytes before `position` are committed, and included in the running hash of the
   * whole. A sequential sink delivers them now, except the last chunk.
   */
  advance(position: number): Promise<void>;
  /** Publishes the content, which is complete and verified. */
  finish(): Promise<void>;
  /**
   * Ends a failed or cancelled download. Committed pieces are kept for a later download. With
   * `discard` they are deleted, since they are known not to form the right content. Never rejects.
   */
  abort(error: unknown, options?: { readonly discard?: boolean }): Promise<void>;
}

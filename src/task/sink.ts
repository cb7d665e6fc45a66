import type { PieceKind } from "../piece.ts";

/**
 * Destination for the content of a task: `memorySink`, the stream of `streamTask`, `fileSink` of
 * the file adapter, or a custom implementation. Each sink can be used for one download. The
 * download calls `open`, and writes to the returned session.
 */
export interface TaskSink {
  /**
   * Prepares the destination and returns the session that the download writes to.
   *
   * Rejects with `StorageFailed` if the destination cannot be prepared, and with `InvalidArgument`
   * if the sink is already in use.
   */
  open(layout: SinkLayout, options: SinkOpenOptions): Promise<SinkSession>;
}

/**
 * Layout of the content that a sink receives. All positions are in bytes, relative to the first
 * requested byte: position 0 is `range.start` of the request.
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
  /** Offset of the first requested byte within the content of the task, in bytes. */
  readonly start: number;
  /** Number of requested bytes. */
  readonly length: number;
  /**
   * Returns the requested part of piece `number`, or undefined if the requested range does not
   * overlap the piece.
   */
  part(number: number): SinkPart | undefined;
}

/**
 * Requested part of one piece: the whole piece, unless the requested range starts or ends inside
 * the piece.
 */
export interface SinkPart {
  /** Number of the piece in the task, from 0. */
  readonly number: number;
  /** Position of the first byte of the part, relative to the first requested byte. */
  readonly position: number;
  /** Length of the part in bytes. */
  readonly length: number;
}

/** Options of {@link TaskSink.open}. */
export interface SinkOpenOptions {
  /** Aborts the opening of the sink. */
  readonly signal: AbortSignal;
  /**
   * Digest of the whole content, as `algorithm:encoded`; absent if unknown. The session must not
   * list pieces of an earlier download whose content has a different digest.
   */
  readonly digest?: string | undefined;
  /** Callback that the session must call each time {@link SinkSession.limit} has increased. */
  readonly onLimitIncrease: () => void;
  /**
   * Callback that the session must call if it can accept no more data, for example because its
   * reader cancelled. The download then fails with `error`.
   */
  readonly onFailure: (error: unknown) => void;
}

/** Piece of which all requested bytes are in the sink and verified. */
export interface SinkPiece {
  /** Number of the piece in the task, from 0. */
  readonly number: number;
  /**
   * Digest of the whole piece, as `algorithm:encoded`. If no digest of the piece was known, it is
   * computed from the received bytes, see {@link unverified}.
   */
  readonly digest: string;
  /**
   * True if neither the parent nor the caller gave a digest of the piece, so that only its length
   * was verified. A sink that outlives the process must store it. Absent: the piece was verified by
   * a digest.
   */
  readonly unverified?: true;
  /** CRC-32 of the requested part of the piece. */
  readonly crc32: number;
  /**
   * Name of the parent that delivered the piece. A sink that outlives the process should store it,
   * so that a later download can compare the pieces of different parents. Absent: unknown.
   */
  readonly source?: string;
}

/**
 * Writing side of a sink, for one download. The download guarantees this order of calls:
 *
 * - For each piece, one attempt at a time writes its bytes in ascending order, and awaits each
 *   write.
 * - After a failed attempt, the next attempt writes the whole part of the piece again.
 * - `commit` follows the last write to a piece. A committed piece is not written again, unless
 *   `restart` dropped it.
 * - Different pieces are written concurrently.
 * - `advance` is called with ascending positions, after all pieces before the position are
 *   committed.
 * - `finish` is called once all pieces are committed and the content is verified.
 *
 * Every method except `abort` rejects with `StorageFailed` if the sink fails. The download fails
 * then. An error other than a `VortexError`, and an exception of a method, become `StorageFailed`.
 */
export interface SinkSession {
  /**
   * Pieces that an earlier download stored in the sink, according to the records of the sink. The
   * download reads and verifies each piece before it counts as stored.
   */
  readonly resumed: readonly SinkPiece[];
  /**
   * Backpressure: the download requests only pieces that end at or before this position, in bytes.
   * The limit must never decrease. Once all bytes before the first uncommitted piece have been
   * consumed, the limit must allow that piece. Absent: all pieces may be requested.
   */
  readonly limit?: number;
  /**
   * Writes bytes of piece `number`, which are not verified yet. The first byte of `chunk` is byte
   * `position` of the requested content. The memory of `chunk` is reused after the returned promise
   * has resolved.
   */
  write(number: number, position: number, chunk: Uint8Array): Promise<void>;
  /** Marks a piece as complete and verified. The piece can be read afterwards. */
  commit(piece: SinkPiece): Promise<void>;
  /**
   * Reads at least one and at most `length` bytes, starting at byte `position` of the requested
   * content. All these bytes are in piece `number`, which is committed or resumed. Any other number
   * of bytes is `StorageFailed`.
   *
   * @param into memory of `length` bytes that the session may fill and return, to save an
   * allocation. If it is given, the session may also return memory that it reuses later. If it is
   * absent, the caller may store the returned bytes, so the session must not modify them later.
   */
  read(number: number, position: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /**
   * Drops all pieces except `kept`, which are committed or resumed; the dropped pieces are written
   * again. No other call is in progress meanwhile. Absent: the session cannot drop pieces.
   */
  restart?(kept: readonly SinkPiece[]): Promise<void>;
  /**
   * Returns true if the bytes of a committed piece can still be read. Absent: committed pieces can
   * always be read.
   */
  canRead?(number: number): boolean;
  /**
   * Reports that all bytes before `position` are committed, and included in the hash of the whole
   * content. A sink that delivers its content in order may deliver these bytes, except the last
   * chunk.
   */
  advance(position: number): Promise<void>;
  /**
   * Publishes the content, which is complete and verified. If `options.signal` aborts, the caller
   * no longer waits for the content. A session that waits for others must reject then; one that
   * only completes its own work may ignore the signal.
   */
  finish(options: { readonly signal: AbortSignal }): Promise<void>;
  /**
   * Ends a failed or cancelled download. The session may keep the committed pieces for a later
   * download. If `discard` is true, it must delete them, since they are known to contain wrong
   * content. Must never reject: an error is ignored.
   */
  abort(error: unknown, options?: { readonly discard?: boolean }): Promise<void>;
}

/** Destination of one download. */
export interface Destination {
  /** Sink that writes to the destination. */
  readonly sink: TaskSink;
  /**
   * Reports that the download failed. A download that fails before it opens the sink reports it in
   * no other way.
   */
  fail(error: unknown): void;
}

import type { PieceKind } from "../piece.ts";

/**
 * Where the bytes of a task go. A sink is used for one download; opening it gives the session that the download writes to.
 * Implementations: `memorySink` and the stream of `streamTask` here, `fileSink` in the file adapter.
 */
export interface TaskSink {
  /**
   * Prepares to take a task. Rejects with `StorageFailed` when that cannot be done, `InvalidArgument` when the sink is in
   * use already.
   */
  open(layout: SinkLayout, options: SinkOpenOptions): Promise<SinkSession>;
}

/** What a sink will be given. All positions count from the first byte that is wanted: 0 is `range.start` of the request. */
export interface SinkLayout {
  /** The task. */
  readonly taskId: string;
  /** Its kind. */
  readonly kind: PieceKind;
  /** Bytes of the whole task. */
  readonly contentLength: number;
  /** Bytes of every piece but the last; undefined when the caller listed pieces of other lengths. */
  readonly pieceLength: number | undefined;
  /** Bytes of the longest piece. */
  readonly longestPiece: number;
  /** First byte that is wanted, within the task. */
  readonly start: number;
  /** Bytes that are wanted. */
  readonly length: number;
  /** The part of piece `number` that is wanted; undefined for a piece that is not touched. */
  part(number: number): SinkPart | undefined;
}

/** The wanted part of one piece. */
export interface SinkPart {
  /** Position of the piece in the task, from 0. */
  readonly number: number;
  /** Where it goes in the sink. */
  readonly position: number;
  /** Bytes; fewer than the piece has where a range of the task begins or ends inside it. */
  readonly length: number;
}

/** What {@link TaskSink.open} is told. */
export interface SinkOpenOptions {
  /** Ends the opening. */
  readonly signal: AbortSignal;
  /**
   * Digest of the whole content, `algorithm:encoded`, where it is known. What an earlier download left of a content with another
   * digest is not found.
   */
  readonly digest?: string | undefined;
  /** Called by the session whenever {@link SinkSession.limit} has grown. */
  readonly onRoom: () => void;
  /** Called by the session when it can take no more: its reader gave up, say. The download ends with `error`. */
  readonly onFailure: (error: unknown) => void;
}

/** A piece whose bytes are all in the sink, and right. */
export interface SinkPiece {
  /** Position in the task, from 0. */
  readonly number: number;
  /** Digest of the whole piece, `algorithm:encoded`. */
  readonly digest: string;
  /** CRC-32 of the wanted part. */
  readonly crc32: number;
}

/**
 * One download's writing to a sink.
 *
 * The download keeps this order for each piece: writes of one fetch at a time, in ascending positions, each awaited; after
 * a fetch that failed, all writes of another one from the start of the part; then one `commit`. Nothing is written to a
 * piece after its commit, until a `restart` takes it back. Different pieces are written side by side. `advance` follows the
 * commits in ascending order, and `finish` comes when everything has been committed and found right.
 *
 * Every method rejects with `StorageFailed` when the sink fails. That ends the download.
 */
export interface SinkSession {
  /** Pieces that an earlier download left, by its own account. The download reads them and compares before it counts them. */
  readonly resumed: readonly SinkPiece[];
  /**
   * Pieces may begin that end at or before this position. Only grows, and is always beyond the first piece that is not
   * committed, once all before it have been taken. Absent: all may begin.
   */
  readonly limit?: number;
  /** Takes bytes of a piece that is not verified yet. The memory of the chunk is used again once this has resolved. */
  write(number: number, position: number, chunk: Uint8Array): Promise<void>;
  /** The piece is in the sink, and right. From now on it can be read. */
  commit(piece: SinkPiece): Promise<void>;
  /**
   * The bytes from `position` on, in a chunk of `length` or fewer bytes, at least one. Only within one committed, or found, piece.
   *
   * @param into memory of `length` bytes that the chunk may be placed in, so that none is allocated. The chunk is looked at once
   * then, before the piece is passed on, and may also be the sink's own memory. Without it, the chunk may be kept.
   */
  read(number: number, position: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /**
   * Keeps only these of the committed and found pieces; all others are written again, while nothing else happens. Absent: what is
   * committed cannot be taken back.
   */
  restart?(kept: readonly SinkPiece[]): Promise<void>;
  /** Whether a committed piece can still be read. Absent: always. */
  holds?(number: number): boolean;
  /** Everything before `position` is committed, and hashed as far as the whole is. A sink in order hands it on now, but for the last chunk. */
  advance(position: number): Promise<void>;
  /** All is there and right: makes it visible. */
  finish(): Promise<void>;
  /**
   * The download has failed, or was cancelled. Keeps what is committed, for another try. With `discard`, what is committed
   * is known to be wrong as a whole and goes. Never rejects.
   */
  abort(error: unknown, options?: { readonly discard?: boolean }): Promise<void>;
}

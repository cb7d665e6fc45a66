import { VortexError } from "./errors.ts";

/** Kind of a Dragonfly task. Each kind has a separate request tag and content tag on the wire. */
export type PieceKind = "standard" | "persistent" | "persistent-cache" | "cache";

/** All kinds of task, in the order of their wire tags. */
export const pieceKinds: readonly PieceKind[] = [
  "standard",
  "persistent",
  "persistent-cache",
  "cache",
];

/**
 * Metadata of a piece as the wire carries it. 64-bit fields are bigint, because values above 2^53
 * occur and must keep every bit. Source: the Vortex protocol crate 0.1.5, `tlv/piece_content.rs`.
 */
export interface PieceMetadata {
  /** Piece number within the task, from 0; an unsigned 32-bit integer. */
  readonly number: number;
  /** Byte offset of the piece within the task's content. */
  readonly offset: bigint;
  /** Length of the content, in bytes. */
  readonly length: bigint;
  /**
   * Digest of the content: `crc32:` with a decimal number, `sha256:` or `sha512:` with hex digits.
   */
  readonly digest: string;
  /** ID of the peer from which the serving peer got the piece; may be empty. */
  readonly parentId: string;
  /**
   * Source from which the serving peer got the piece, an unsigned byte: 0 origin, 1 remote peer, 2
   * local peer.
   */
  readonly trafficType: number;
  /** Time that the serving peer took to get the piece, in whole seconds. */
  readonly costSeconds: bigint;
  /** Time at which the serving peer got the piece, in Unix seconds. */
  readonly createdAtSeconds: bigint;
}

/** Half-open range of bytes, `start` to `end`, relative to the start of a piece. */
export interface ByteRange {
  /** Offset of the first byte. */
  readonly start: number;
  /** Offset after the last byte. Default: the end of the piece. */
  readonly end?: number;
}

/**
 * Piece that is being received. Its content can be consumed once: by `content`, `read()` or
 * `bytes()`. A caller that does not want it must call `cancel()`.
 */
export interface Piece {
  /** Piece number within the task, from 0. */
  readonly number: number;
  /** Kind of the task, as requested. */
  readonly kind: PieceKind;
  /** Byte offset of the piece within the task's content. */
  readonly offset: number;
  /** Length of the whole piece in bytes, also when only a range of it was requested. */
  readonly length: number;
  /** Digest of the whole piece, against which the content is verified. */
  readonly digest: string;
  /** Metadata exactly as the peer sent it. */
  readonly metadata: PieceMetadata;
  /**
   * Content as it arrives. The stream closes only after length and digest are verified, and errors
   * otherwise. Do not trust its bytes before it closes.
   *
   * A range that omits bytes cannot be verified against the digest of the piece. For such a range,
   * a close means only that the length is correct.
   */
  readonly content: ReadableStream<Uint8Array>;
  /**
   * Reads the next chunk of the content; resolves to undefined at its end. Verifies it like
   * {@link content}, without the overhead of a stream. Only one call at a time.
   *
   * @param into non-empty buffer for the chunk, which the caller may reuse for the next one to
   * avoid allocations. Where the transport can fill it (QUIC by quiche, TCP), the chunk is a view
   * of it; else the chunk has a separate buffer.
   */
  read(into?: Uint8Array): Promise<Uint8Array | undefined>;
  /**
   * Reads the whole content. Resolves after length and digest are verified.
   *
   * @param into buffer for the content, at least as long. Its bytes are valid only once the promise
   * has resolved. Default: a new buffer. Rejects with `InvalidArgument` if it is too short.
   */
  bytes(into?: Uint8Array): Promise<Uint8Array>;
  /** Discards the unread content and frees the stream. Idempotent. */
  cancel(): void;
}

const MEBI = 1024 * 1024;
/** Minimum length of a piece in bytes, except for the last one of a task. */
export const MIN_PIECE_LENGTH: number = 4 * MEBI;
/** Maximum length of a piece in bytes. */
export const MAX_PIECE_LENGTH: number = 64 * MEBI;
/** Number of pieces per task that {@link pieceLengthFor} aims for. */
const TARGET_PIECE_COUNT = 500;

/**
 * Returns the piece length that stock Dragonfly chooses for a task, in bytes. That is the content
 * length / 500 rounded down, then rounded up to a power of two and clamped to 4 MiB to 64 MiB.
 * Source: dragonfly-client, `resource/piece.rs`, `calculate_piece_length`.
 */
export function pieceLengthFor(contentLength: number): number {
  const target = Math.floor(contentLength / TARGET_PIECE_COUNT);
  let length = MIN_PIECE_LENGTH;
  while (length < target && length < MAX_PIECE_LENGTH) length *= 2;
  return length;
}

/** Division of a task's content into pieces. */
export interface TaskPlan {
  /** Length of the content, in bytes. */
  readonly contentLength: number;
  /** Length of every piece except the last, in bytes. */
  readonly pieceLength: number;
  /** Number of pieces; 0 for an empty task. */
  readonly pieceCount: number;
}

/**
 * Divides `contentLength` bytes into pieces of `pieceLength` bytes; the last piece may be shorter.
 * An empty task has no pieces.
 *
 * @throws `InvalidArgument` unless `contentLength` is at least 0 and `pieceLength` at least 1, or
 * if there are 2^32 pieces or more
 */
export function planTask(
  contentLength: number,
  pieceLength: number = pieceLengthFor(contentLength),
): TaskPlan {
  requireInteger("content length", contentLength, 0, Number.MAX_SAFE_INTEGER);
  requireInteger("piece length", pieceLength, 1, Number.MAX_SAFE_INTEGER);
  const pieceCount = Math.ceil(contentLength / pieceLength);
  if (pieceCount > 0xffffffff) {
    throw new VortexError(
      "InvalidArgument",
      `too many pieces: expected at most ${0xffffffff}, got ${pieceCount}; use longer pieces`,
    );
  }
  return { contentLength, pieceLength, pieceCount };
}

/**
 * Returns the offset and length of piece `number`, in bytes. The last piece may be shorter.
 *
 * @throws `InvalidArgument` for a number outside of the plan
 */
export function pieceExtent(plan: TaskPlan, number: number): { offset: number; length: number } {
  requireInteger("piece number", number, 0, plan.pieceCount - 1);
  const offset = number * plan.pieceLength;
  return { offset, length: Math.min(plan.pieceLength, plan.contentLength - offset) };
}

/**
 * Requires an integer from `min` to `max`.
 *
 * @param name name of the value, for the message
 * @throws `InvalidArgument` for any other value
 */
export function requireInteger(name: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new VortexError(
      "InvalidArgument",
      `${name}: expected an integer from ${min} to ${max}, got ${value}`,
    );
  }
}

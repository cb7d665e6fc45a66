import { VortexError } from "./errors.ts";

/** Dragonfly's kinds of task; each has its own request and content tag on the wire. */
export type PieceKind = "standard" | "persistent" | "persistent-cache" | "cache";

/** All kinds, in the order of their tags. */
export const pieceKinds: readonly PieceKind[] = [
  "standard",
  "persistent",
  "persistent-cache",
  "cache",
];

/**
 * What the wire says about a piece. 64-bit fields are bigint: values above 2^53 occur and keep every bit.
 * Source: the Vortex protocol crate 0.1.5, `tlv/piece_content.rs`.
 */
export interface PieceMetadata {
  /** Position in the task, from 0; an unsigned 32-bit integer. */
  readonly number: number;
  /** First byte of the piece within the task's content. */
  readonly offset: bigint;
  /** Bytes of content. */
  readonly length: bigint;
  /** `crc32:` and a decimal number, `sha256:` or `sha512:` and hex digits. */
  readonly digest: string;
  /** Peer that the serving peer got the piece from; may be empty. */
  readonly parentId: string;
  /** Where it came from: 0 origin, 1 remote peer, 2 local peer; an unsigned byte. */
  readonly trafficType: number;
  /** Whole seconds that the serving peer spent on getting it. */
  readonly costSeconds: bigint;
  /** When the serving peer got it, in Unix seconds. */
  readonly createdAtSeconds: bigint;
}

/** Bytes `start` to `end` (exclusive), counted from the first byte of a piece. `end` defaults to the piece's end. */
export interface ByteRange {
  /** First byte, from 0. */
  readonly start: number;
  /** The byte after the last one. Default: the end. */
  readonly end?: number;
}

/** A piece on its way in. Read its content once, by `content` or by `bytes()`, or `cancel()` it. */
export interface Piece {
  /** Position in the task, from 0. */
  readonly number: number;
  /** What was asked for. */
  readonly kind: PieceKind;
  /** First byte of the piece within the task's content. */
  readonly offset: number;
  /** Bytes of the whole piece, also when a range of it was asked for. */
  readonly length: number;
  /** The digest of the whole piece that its content is checked against. */
  readonly digest: string;
  /** Everything that the peer said, untouched. */
  readonly metadata: PieceMetadata;
  /**
   * The content as it arrives. The stream closes only after length and digest agreed; before that it errors, so what came
   * out of a stream that did not close is not to be trusted. (A range that leaves bytes out cannot be checked against the
   * digest of the piece: there, closing means that the length was right.)
   */
  readonly content: ReadableStream<Uint8Array>;
  /**
   * The next chunk of the content, or undefined at its end; like `content`, for whoever wants no stream. One call at a time.
   *
   * @param into memory for the chunk, not empty, to be used again for the next one: nothing is allocated then. The chunk is a part of
   * it where the transport can do so (QUIC by quiche, TCP), and else in memory of its own.
   */
  read(into?: Uint8Array): Promise<Uint8Array | undefined>;
  /**
   * The whole content, after length and digest agreed.
   *
   * @param into memory for it, at least as long; it is filled in any case, but holds what is right only once this has resolved.
   * Default: new memory. Rejects with `InvalidArgument` when it is too short.
   */
  bytes(into?: Uint8Array): Promise<Uint8Array>;
  /** Gives the content up unread and frees the stream. Idempotent. */
  cancel(): void;
}

const MEBI = 1024 * 1024;
/** Least length of a piece in bytes, but for a task's last one. */
export const MIN_PIECE_LENGTH: number = 4 * MEBI;
/** Greatest length of a piece in bytes. */
export const MAX_PIECE_LENGTH: number = 64 * MEBI;
const MAX_PIECE_COUNT = 500;

/**
 * The piece length that stock Dragonfly chooses for a task, in bytes: content length / 500 rounded down, the next power of
 * two, held within 4 MiB and 64 MiB. Source: dragonfly-client, `resource/piece.rs`, `calculate_piece_length`.
 */
export function pieceLengthFor(contentLength: number): number {
  const least = Math.floor(contentLength / MAX_PIECE_COUNT);
  let length = MIN_PIECE_LENGTH;
  while (length < least && length < MAX_PIECE_LENGTH) length *= 2;
  return length;
}

/** How a task's content is cut into pieces. */
export interface TaskPlan {
  /** Bytes of the task. */
  readonly contentLength: number;
  /** Bytes of every piece but the last. */
  readonly pieceLength: number;
  /** Number of pieces; 0 for an empty task. */
  readonly pieceCount: number;
}

/**
 * Cuts `contentLength` bytes into pieces of `pieceLength` bytes, the last one of what is left. An empty task has no pieces.
 * @throws `InvalidArgument` unless `contentLength` is 0 or more, `pieceLength` 1 or more, and the pieces are fewer than 2^32
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
      `a task of ${pieceCount} pieces: piece numbers end at 4294967295`,
    );
  }
  return { contentLength, pieceLength, pieceCount };
}

/**
 * Offset and length of piece `number` of `plan`, in bytes; the last one may be short.
 * @throws `InvalidArgument` for a number that the plan does not have
 */
export function pieceExtent(plan: TaskPlan, number: number): { offset: number; length: number } {
  requireInteger("piece number", number, 0, plan.pieceCount - 1);
  const offset = number * plan.pieceLength;
  return { offset, length: Math.min(plan.pieceLength, plan.contentLength - offset) };
}

/** Throws `InvalidArgument` unless `value` is an integer within `least` and `greatest`. */
export function requireInteger(name: string, value: number, least: number, greatest: number): void {
  if (!Number.isInteger(value) || value < least || value > greatest) {
    throw new VortexError(
      "InvalidArgument",
      `${name} ${value}: expected an integer from ${least} to ${greatest}`,
    );
  }
}

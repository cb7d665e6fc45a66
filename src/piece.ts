import {
  anyText,
  type Check,
  type Checks,
  integer,
  oneOf,
  required,
  requireInteger,
  requireOptions,
  size,
  text,
  toInteger,
} from "./arguments.ts";
import { VortexError } from "./errors.ts";

/** Kind of a Dragonfly task. The Vortex protocol has separate packet tags for each kind. */
export type PieceKind = "standard" | "persistent" | "persistent-cache" | "cache";

/** All kinds of Dragonfly tasks, in the order of their tags in the Vortex protocol. */
export const pieceKinds: readonly PieceKind[] = [
  "standard",
  "persistent",
  "persistent-cache",
  "cache",
];

/**
 * Metadata of a piece, as in a Vortex packet. 64-bit fields are of type bigint, because a number
 * cannot represent all values above 2^53. Source: `tlv/piece_content.rs` in version 0.1.5 of the
 * Rust crate for the Vortex protocol.
 *
 * @typeParam Input further types of the 64-bit fields. A store may supply `number | bigint`
 */
export interface PieceMetadata<Input extends number | bigint = never> {
  /** Number of the piece within the task, starting at 0; an unsigned 32-bit integer. */
  readonly number: number;
  /** Position of the first byte of the piece in the content of the task. */
  readonly offset: bigint | Input;
  /** Length of the piece's content, in bytes. */
  readonly length: bigint | Input;
  /**
   * Digest of the piece's content in the form `algorithm:encoded`. For `crc32`, the encoded value
   * is a decimal number; for `sha256` and `sha512`, hex digits. Empty if a peer has no digest.
   */
  readonly digest: string;
  /** ID of the peer from which the sender of this metadata downloaded the piece. May be empty. */
  readonly parentId: string;
  /**
   * Place from which the sender of this metadata got the piece, an unsigned byte: 0 the origin of
   * the task, 1 a remote peer, 2 the local host.
   */
  readonly trafficType: number;
  /** Time that the sender of this metadata needed to get the piece, in whole seconds. */
  readonly costSeconds: bigint | Input;
  /** Time at which the sender of this metadata got the piece, in Unix seconds. */
  readonly createdAtSeconds: bigint | Input;
}

const pieceFieldChecks: Checks<Parameters<typeof pieceMetadata>[0]> = {
  number: required(integer(0, 0xffffffff)),
  offset: required(size(0)),
  length: required(size(0)),
  digest: required(text),
  parentId: anyText,
  trafficType: integer(0, 0xff),
  costSeconds: size(0),
  createdAtSeconds: size(0),
};

/**
 * Builds the metadata of a piece, for example in a custom `PieceStore`. The 64-bit fields may be of
 * type number or bigint.
 *
 * Defaults: `parentId` is empty, `trafficType` 2 (the local host), `costSeconds` and
 * `createdAtSeconds` 0.
 *
 * @throws `InvalidArgument` if a field is unknown, missing, or outside its range. The 64-bit fields
 * are at most `Number.MAX_SAFE_INTEGER`
 *
 * @example
 * ```ts
 * import { pieceMetadata } from "vortex-peer";
 *
 * const metadata = pieceMetadata({ number: 0, offset: 0, length: 5, digest: "crc32:1" });
 * console.log(metadata.length); // 5n
 * ```
 */
export function pieceMetadata(piece: {
  readonly number: number;
  readonly offset: number | bigint;
  readonly length: number | bigint;
  readonly digest: string;
  readonly parentId?: string | undefined;
  readonly trafficType?: number | undefined;
  readonly costSeconds?: number | bigint | undefined;
  readonly createdAtSeconds?: number | bigint | undefined;
}): PieceMetadata {
  requireOptions("pieceMetadata", piece, pieceFieldChecks);
  return {
    number: piece.number,
    offset: BigInt(piece.offset),
    length: BigInt(piece.length),
    digest: piece.digest,
    parentId: piece.parentId ?? "",
    trafficType: piece.trafficType ?? 2,
    costSeconds: BigInt(piece.costSeconds ?? 0),
    createdAtSeconds: BigInt(piece.createdAtSeconds ?? 0),
  };
}

/**
 * Policy for pieces that a peer announces without a digest, like importers of persistent cache
 * tasks do.
 *
 * - `accept`: only the length of such a piece is verified. dfdaemon does the same, with a warning.
 * - `refuse`: the request fails with `ProtocolViolation`.
 */
export type UnverifiedPieces = "accept" | "refuse";

/** Check for a policy of type {@link UnverifiedPieces}. */
export const unverifiedPiecesCheck: Check = oneOf("accept", "refuse");

/** Range of bytes within a piece. It contains the byte at `start` and not the byte at `end`. */
export interface ByteRange {
  /** Position of the first byte, relative to the start of the piece. */
  readonly start: number;
  /**
   * Position after the last byte, relative to the start of the piece. Default: the end of the
   * piece.
   */
  readonly end?: number | undefined;
}

/** {@link ByteRange} in a request. Its positions may be of type number or bigint. */
export interface RequestedRange {
  /** Position of the first byte. */
  readonly start: number | bigint;
  /** Position after the last byte. Default: the end of the content. */
  readonly end?: number | bigint | undefined;
}

/**
 * Piece whose metadata has arrived, while its content may still be in transit. The content can be
 * read only once: by {@link content}, by {@link read} or by {@link bytes}. A caller that does not
 * read it to the end must call {@link cancel}.
 */
export interface Piece {
  /** Number of the piece within the task, starting at 0. */
  readonly number: number;
  /** Kind of the task, as in the request. */
  readonly kind: PieceKind;
  /** Position of the first byte of the piece in the content of the task. */
  readonly offset: number;
  /** Length of the complete piece in bytes, even if only a range of it was requested. */
  readonly length: number;
  /**
   * Digest of the complete piece in the form `algorithm:encoded`, as the peer announced it. The
   * content is verified against it.
   *
   * Empty if the peer announced none, and the option `unverifiedPieces` accepts that. Then only the
   * length of the content is verified.
   */
  readonly digest: string;
  /** Metadata of the piece exactly as the peer sent it. */
  readonly metadata: PieceMetadata;
  /**
   * Content of the piece as a stream of chunks. After the last chunk, length and digest are
   * verified: the stream closes if they are correct, and errors if not. Do not trust the bytes
   * before the stream has closed.
   *
   * If the requested range omits bytes of the piece, the digest cannot be verified. Then only the
   * length is verified.
   */
  readonly content: ReadableStream<Uint8Array<ArrayBuffer>>;
  /**
   * Reads the next chunk of the content. Resolves to undefined after the last chunk. Rejects if
   * length or digest are wrong, like {@link content}, but without the overhead of a stream. Only
   * one call may be pending at a time.
   *
   * @param into non-empty buffer for the chunk. The caller may pass the same buffer to each call,
   * to avoid allocations. If the transport can fill it (QUIC by quiche, TCP), the chunk is a view
   * of it; otherwise the chunk has a separate buffer. Rejects with `InvalidArgument` if the buffer
   * is empty or in a `SharedArrayBuffer`. Default: a new buffer
   */
  read(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /**
   * Reads the complete content. Resolves after length and digest are verified.
   *
   * @param into buffer for the content. Its bytes are valid only after the promise has resolved.
   * Rejects with `InvalidArgument` if the buffer is shorter than the content, or in a
   * `SharedArrayBuffer`. Default: a new buffer
   */
  bytes(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>>;
  /** Discards the content that has not been read, and frees the stream. Idempotent. */
  cancel(): void;
}

/** Max number of ranges in a list of pieces. A task has up to a million pieces. */
const MAX_RANGES = 16;

/**
 * Formats ascending piece numbers as ranges for an error message, such as `3, 5-9`. Lists at most
 * 16 ranges, and then the number of the other pieces.
 */
export function formatPieceRanges(numbers: Iterable<number>): string {
  const ranges: { readonly first: number; last: number }[] = [];
  let omitted = 0;
  for (const number of numbers) {
    const range = ranges.at(-1);
    if (omitted === 0 && range !== undefined && range.last + 1 === number) range.last = number;
    else if (ranges.length < MAX_RANGES) ranges.push({ first: number, last: number });
    else omitted++;
  }
  const listed = ranges.map(({ first, last }) =>
    first === last ? `${first}` : `${first}-${last}`,
  );
  return listed.join(", ") + (omitted === 0 ? "" : ` and ${omitted} more`);
}

const MAX_LENGTH = Number.MAX_SAFE_INTEGER;
const MEBI = 1024 * 1024;
/**
 * Minimum length in bytes that stock Dragonfly chooses for pieces. The last piece of a task may be
 * shorter.
 */
export const MIN_PIECE_LENGTH: number = 4 * MEBI;
/** Maximum length in bytes that stock Dragonfly chooses for pieces. */
export const MAX_PIECE_LENGTH: number = 64 * MEBI;
/**
 * Number of pieces into which {@link pieceLengthFor} divides a task, if the minimum and maximum
 * length of a piece permit.
 */
const TARGET_PIECE_COUNT = 500;

/**
 * Returns the piece length in bytes that stock Dragonfly chooses for a task. The content length is
 * divided by 500, rounded up to a power of two, and limited to 4 MiB to 64 MiB. Source:
 * dragonfly-client, `resource/piece.rs`, `calculate_piece_length`.
 *
 * @param contentLength length of the task's content, in bytes
 */
export function pieceLengthFor(contentLength: number | bigint): number {
  const target = Math.floor(Number(contentLength) / TARGET_PIECE_COUNT);
  let length = MIN_PIECE_LENGTH;
  while (length < target && length < MAX_PIECE_LENGTH) length *= 2;
  return length;
}

/** Division of a task's content into pieces of equal length. */
export interface TaskPlan {
  /** Length of the task's content, in bytes. */
  readonly contentLength: number;
  /** Length in bytes of every piece except the last, which may be shorter. */
  readonly pieceLength: number;
  /** Number of pieces. 0 if the content is empty. */
  readonly pieceCount: number;
}

/**
 * Divides `contentLength` bytes into pieces of `pieceLength` bytes. The last piece may be shorter.
 * Empty content has no pieces. The result has numbers, also for bigint arguments.
 *
 * @throws `InvalidArgument` if `contentLength` is not a non-negative integer, or `pieceLength` is
 * not a positive integer
 * @throws `InvalidArgument` if there are 2^32 pieces or more
 */
export function planTask(
  contentLength: number | bigint,
  pieceLength: number | bigint = pieceLengthFor(contentLength),
): TaskPlan {
  const content = toInteger("content length", contentLength, 0, MAX_LENGTH);
  const piece = toInteger("piece length", pieceLength, 1, MAX_LENGTH);
  const pieceCount = Math.ceil(content / piece);
  if (pieceCount > 0xffffffff) {
    throw new VortexError(
      "InvalidArgument",
      `too many pieces: expected at most ${0xffffffff}, got ${pieceCount}; use longer pieces`,
    );
  }
  return { contentLength: content, pieceLength: piece, pieceCount };
}

/**
 * Returns the position and length in bytes of the piece with the given number in the content of a
 * task. The last piece may be shorter than the others.
 *
 * @throws `InvalidArgument` if the task has no piece with this number
 */
export function pieceExtent(plan: TaskPlan, number: number): { offset: number; length: number } {
  requireInteger("piece number", number, 0, plan.pieceCount - 1);
  const offset = number * plan.pieceLength;
  return { offset, length: Math.min(plan.pieceLength, plan.contentLength - offset) };
}

/**
 * Check of each field of {@link RequestedRange}; a failed one throws `InvalidArgument`. The upper
 * bounds depend on the content.
 */
export const byteRangeChecks: Checks<RequestedRange> = { start: size(0), end: size(0) };

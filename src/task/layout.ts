import {
  type Checks,
  integer,
  required,
  requireInteger,
  size,
  text,
  toInteger,
} from "../arguments.ts";
import { type Digest, parseDigest } from "../digest/digest.ts";
import { VortexError } from "../errors.ts";
import { type PieceKind, pieceLengthFor, planTask, type RequestedRange } from "../piece.ts";
import type { TaskOutline } from "./discovery.ts";
import type { SinkLayout, SinkPart } from "./sink.ts";

/**
 * Maximum number of pieces of one task: 61 TiB in pieces of 64 MiB. Each piece costs a few bytes of
 * memory.
 */
export const MAX_PIECES: number = 1_000_000;

/** Piece of a task, as listed by the caller. */
export interface ListedPiece {
  /**
   * Number of the piece in the task. The list must contain each number exactly once, without gaps,
   * starting at 0.
   */
  readonly number: number;
  /**
   * Offset of the piece within the content of the task, in bytes. Must be the end of the previous
   * piece.
   */
  readonly offset: number | bigint;
  /** Length of the piece in bytes. */
  readonly length: number | bigint;
  /**
   * Expected digest of the piece, as `algorithm:encoded` with `crc32`, `sha256` or `sha512`. The
   * piece is verified by this digest instead of the digest that a parent announces. Default: the
   * announced digest.
   */
  readonly digest?: string | undefined;
}

/**
 * Lengths of a task's content, as far as the caller knows them. Unknown lengths are requested from
 * the parents.
 */
export interface KnownLayout {
  /**
   * Length of the task's content in bytes. Default: the sum of `pieces`, or the length that the
   * parents report.
   */
  readonly contentLength?: number | bigint | undefined;
  /**
   * Length of every piece except the last, in bytes. Requires `contentLength`. Default: the length
   * that dfdaemon chooses for `contentLength`.
   */
  readonly pieceLength?: number | bigint | undefined;
  /**
   * List of all pieces, for a task with pieces of varying length or with known piece digests.
   * Cannot be combined with `pieceLength`.
   */
  readonly pieces?: readonly ListedPiece[] | undefined;
}

/** {@link ListedPiece} with numbers. */
interface PlacedPiece {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
  readonly digest?: string | undefined;
}

/** Division of a task's content into pieces, with the byte range that the caller requested. */
export class TaskLayout implements SinkLayout {
  /** ID of the task. */
  readonly taskId: string;
  /** Kind of the task. */
  readonly kind: PieceKind;
  /** Length of the whole content of the task in bytes. */
  readonly contentLength: number;
  /** Length of every piece except the last, in bytes; undefined if the lengths vary. */
  readonly pieceLength: number | undefined;
  /** Number of pieces of the whole task. */
  readonly pieceCount: number;
  /** Length of the longest piece in bytes. */
  readonly longestPiece: number;
  /** Number of the first requested piece. */
  readonly first: number;
  /** Number of the last requested piece; -1 if the range is empty. */
  readonly last: number;
  /** Offset of the first requested byte within the content of the task. */
  readonly start: number;
  /** Number of requested bytes. */
  readonly length: number;
  /**
   * Pieces listed by the caller, in ascending order, with their parsed digests; undefined without a
   * list.
   */
  readonly #pieces: readonly (PlacedPiece & { readonly parsed: Digest | undefined })[] | undefined;
  /**
   * Error code for an exceeded limit: `InvalidArgument` if the caller gave the layout,
   * `LimitExceeded` if a parent announced it.
   */
  readonly #limitCode: "InvalidArgument" | "LimitExceeded";

  private constructor(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: RequestedRange | undefined;
    },
    content: Pick<TaskLayout, "contentLength" | "pieceLength" | "pieceCount">,
    pieces: readonly PlacedPiece[] | undefined,
    limitCode: "InvalidArgument" | "LimitExceeded",
  ) {
    this.#limitCode = limitCode;
    this.taskId = task.taskId;
    this.kind = task.kind;
    this.contentLength = content.contentLength;
    this.pieceLength = content.pieceLength;
    this.pieceCount = content.pieceCount;
    this.#pieces = pieces?.map((piece) => ({
      ...piece,
      parsed: piece.digest === undefined ? undefined : parseDigest(piece.digest),
    }));
    this.longestPiece =
      pieces === undefined
        ? Math.min(content.pieceLength ?? 0, content.contentLength)
        : pieces.reduce((longest, { length }) => Math.max(longest, length), 0);
    if (this.pieceCount > MAX_PIECES) {
      throw new VortexError(
        limitCode,
        `number of pieces: expected at most ${MAX_PIECES}, got ${this.pieceCount}`,
      );
    }
    const { range } = task;
    const start = toInteger("range.start", range?.start ?? 0, 0, this.contentLength);
    // An open range without a byte is unsatisfiable (RFC 9110, 14.1.2).
    if (range?.end === undefined && start > 0 && start === this.contentLength) {
      throw new VortexError(
        "InvalidArgument",
        `range.start: expected a position before the end, from 0 up to ${this.contentLength}, got ${start}`,
      );
    }
    const end = toInteger("range.end", range?.end ?? this.contentLength, start, this.contentLength);
    this.start = start;
    this.length = end - start;
    this.first = this.length === 0 ? 0 : this.#pieceAt(start);
    this.last = this.length === 0 ? -1 : this.#pieceAt(end - 1);
  }

  /**
   * Returns the layout that the caller gave. Returns undefined if the caller gave neither
   * `contentLength` nor `pieces`, so that the layout must be requested from the parents.
   *
   * @throws `InvalidArgument` if a length or digest is invalid, the range is outside the content,
   * or there are more than {@link MAX_PIECES} pieces
   */
  static known(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: RequestedRange | undefined;
    },
    { contentLength, pieceLength, pieces }: KnownLayout,
  ): TaskLayout | undefined {
    if (pieces !== undefined) {
      if (pieceLength !== undefined) {
        throw new VortexError(
          "InvalidArgument",
          "layout of the task: expected pieces or pieceLength, got both",
        );
      }
      return TaskLayout.#listed(task, pieces, contentLength);
    }
    if (contentLength === undefined) {
      if (pieceLength === undefined) return undefined;
      throw new VortexError(
        "InvalidArgument",
        `pieceLength: expected contentLength with it, got ${pieceLength} alone`,
      );
    }
    const plan = planTask(contentLength, pieceLength ?? pieceLengthFor(contentLength));
    return new TaskLayout(task, plan, undefined, "InvalidArgument");
  }

  /**
   * Returns the layout that a parent announced.
   *
   * @throws `ProtocolViolation` if the announced numbers contradict each other; `LimitExceeded` for
   * more than {@link MAX_PIECES} pieces; `InvalidArgument` if the requested range is outside the
   * content
   */
  static announced(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: RequestedRange | undefined;
    },
    { contentLength, pieceLength, pieceCount }: TaskOutline,
  ): TaskLayout {
    const isIntegerFrom = (value: number, min: number): boolean =>
      Number.isSafeInteger(value) && value >= min;
    if (
      !isIntegerFrom(contentLength, 0) ||
      !isIntegerFrom(pieceLength, 1) ||
      Math.ceil(contentLength / pieceLength) !== pieceCount
    ) {
      const message = `announced lengths: expected pieces that add up to the content, got ${contentLength} bytes in ${pieceCount} pieces of ${pieceLength}`;
      throw new VortexError("ProtocolViolation", message);
    }
    return new TaskLayout(
      task,
      { contentLength, pieceLength, pieceCount },
      undefined,
      "LimitExceeded",
    );
  }

  /**
   * Returns the layout for a list of pieces from the caller.
   *
   * @param contentLength length of the content in bytes, if the caller gave it
   * @throws `InvalidArgument` if the list has gaps or more than {@link MAX_PIECES} pieces
   * @throws `InvalidArgument` if a digest is malformed, or the requested byte range is outside the
   * content
   * @throws `InvalidArgument` if `contentLength` differs from the sum of the lengths of the pieces
   */
  static #listed(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: RequestedRange | undefined;
    },
    pieces: readonly ListedPiece[],
    contentLength: number | bigint | undefined,
  ): TaskLayout {
    const sorted = pieces.map(placedPiece).sort((a, b) => a.number - b.number);
    let offset = 0;
    for (const [index, piece] of sorted.entries()) {
      if (piece.number !== index || piece.offset !== offset) {
        throw new VortexError(
          "InvalidArgument",
          `list of pieces: expected piece ${index} at offset ${offset}, got piece ${piece.number} at ${piece.offset}; list all pieces without gaps`,
        );
      }
      offset += piece.length;
    }
    if (contentLength !== undefined && Number(contentLength) !== offset) {
      throw new VortexError(
        "InvalidArgument",
        `contentLength: expected ${offset}, the sum of the pieces, got ${contentLength}`,
      );
    }
    requireInteger("content length", offset, 0, Number.MAX_SAFE_INTEGER);
    const [first] = sorted;
    const even =
      first !== undefined && sorted.slice(0, -1).every(({ length }) => length === first.length);
    const last = sorted.at(-1);
    const pieceLength =
      even && last !== undefined && last.length <= first.length ? first.length : undefined;
    const content = { contentLength: offset, pieceLength, pieceCount: sorted.length };
    return new TaskLayout(task, content, sorted, "InvalidArgument");
  }

  /** Number of requested pieces. */
  get wantedCount(): number {
    return this.last - this.first + 1;
  }

  /** True if the requested range covers the whole content of the task. */
  get isWhole(): boolean {
    return this.length === this.contentLength;
  }

  /** True if the caller gave a digest for every requested piece. */
  get hasAllDigests(): boolean {
    if (this.wantedCount === 0) return true;
    const wanted = this.#pieces?.slice(this.first, this.last + 1);
    return wanted?.every(({ parsed }) => parsed !== undefined) ?? false;
  }

  /**
   * Requires that no piece is longer than `maxPieceLength` bytes.
   *
   * @throws `InvalidArgument` if a piece is longer and the caller gave the layout; `LimitExceeded`
   * if a piece is longer and a parent announced the layout
   */
  requirePieceLength(maxPieceLength: number): void {
    if (this.longestPiece <= maxPieceLength) return;
    const message = `length of the longest piece: expected at most ${maxPieceLength} bytes, got ${this.longestPiece}; raise maxPieceLength`;
    throw new VortexError(this.#limitCode, message);
  }

  /** Returns offset and length of piece `number` within the content of the task, in bytes. */
  extent(number: number): { readonly offset: number; readonly length: number } {
    const listed = this.#pieces?.[number];
    if (listed !== undefined) return { offset: listed.offset, length: listed.length };
    const pieceLength = this.pieceLength ?? this.contentLength;
    const offset = number * pieceLength;
    return { offset, length: Math.min(pieceLength, this.contentLength - offset) };
  }

  /** Returns the digest that the caller gave for a piece, or undefined if the caller gave none. */
  digest(number: number): Digest | undefined {
    return this.#pieces?.[number]?.parsed;
  }

  /**
   * Returns the requested part of piece `number`, or undefined if the requested range does not
   * overlap the piece.
   */
  part(number: number): SinkPart | undefined {
    if (number < this.first || number > this.last) return undefined;
    const { offset, length } = this.extent(number);
    const from = Math.max(offset, this.start);
    const to = Math.min(offset + length, this.start + this.length);
    return { number, position: from - this.start, length: to - from };
  }

  /** Returns the number of the piece that contains the byte at `offset` of the task's content. */
  #pieceAt(offset: number): number {
    const pieces = this.#pieces;
    if (pieces === undefined) return Math.floor(offset / (this.pieceLength ?? this.contentLength));
    let low = 0;
    let high = pieces.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((pieces[middle]?.offset ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** @throws `InvalidArgument` if the offset or length is out of range */
function placedPiece({ offset, length, ...piece }: ListedPiece): PlacedPiece {
  const { number } = piece;
  return {
    ...piece,
    offset: toInteger(`offset of piece ${number}`, offset, 0, Number.MAX_SAFE_INTEGER),
    length: toInteger(`length of piece ${number}`, length, 1, Number.MAX_SAFE_INTEGER),
  };
}

/** Check of each field of {@link ListedPiece}; a failed one throws `InvalidArgument`. */
export const listedPieceChecks: Checks<ListedPiece> = {
  number: required(integer(0, 0xffffffff)),
  offset: required(size(0)),
  length: required(size(1)),
  digest: text,
};

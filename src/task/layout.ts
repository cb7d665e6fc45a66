import { type Digest, parseDigest } from "../digest/digest.ts";
import { VortexError } from "../errors.ts";
import {
  type ByteRange,
  type PieceKind,
  pieceLengthFor,
  planTask,
  requireInteger,
} from "../piece.ts";
import type { TaskOutline } from "./discovery.ts";
import type { SinkLayout, SinkPart } from "./sink.ts";

/** Greatest number of pieces of one task: 61 TiB in pieces of 64 MiB. What is kept for a piece is a few bytes. */
export const MAX_PIECES: number = 1_000_000;

/** A piece of a task, as the caller knows it. */
export interface ListedPiece {
  /** Position in the task, from 0; each number from 0 up once. */
  readonly number: number;
  /** First byte of the piece within the task's content: where the piece before it ends. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** `crc32:`, `sha256:` or `sha512:`. When given, the parents' own word does not count. */
  readonly digest?: string;
}

/** What the caller knows of a task's content. */
export interface KnownLayout {
  /** Bytes of the task. */
  readonly contentLength?: number | undefined;
  /** Bytes of every piece but the last. Default: as stock Dragonfly chooses. */
  readonly pieceLength?: number | undefined;
  /** The pieces themselves, for a task that is cut in another way, or whose digests are known. Instead of the lengths. */
  readonly pieces?: readonly ListedPiece[] | undefined;
}

/** How the content of a task lies in pieces, and which part of it is wanted. */
export class TaskLayout implements SinkLayout {
  readonly taskId: string;
  readonly kind: PieceKind;
  readonly contentLength: number;
  readonly pieceLength: number | undefined;
  readonly pieceCount: number;
  readonly longestPiece: number;
  /** First and last piece that is wanted; `last` is `first - 1` when none is. */
  readonly first: number;
  readonly last: number;
  readonly start: number;
  readonly length: number;
  readonly #pieces: readonly (ListedPiece & { readonly parsed: Digest | undefined })[] | undefined;
  /** Code of a layout beyond a limit: a mistake of the caller that gave it, or of the parent. */
  readonly #limitCode: "InvalidArgument" | "LimitExceeded";

  private constructor(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: ByteRange | undefined;
    },
    content: Pick<TaskLayout, "contentLength" | "pieceLength" | "pieceCount">,
    pieces: readonly ListedPiece[] | undefined,
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
        `a task of ${this.pieceCount} pieces: expected at most ${MAX_PIECES}`,
      );
    }
    const start = task.range?.start ?? 0;
    const end = task.range?.end ?? this.contentLength;
    requireInteger("range.start", start, 0, this.contentLength);
    requireInteger("range.end", end, start, this.contentLength);
    this.start = start;
    this.length = end - start;
    this.first = this.length === 0 ? 0 : this.#pieceAt(start);
    this.last = this.length === 0 ? -1 : this.#pieceAt(end - 1);
  }

  /**
   * The layout that the caller knows, or undefined when the parents are to be asked.
   * @throws `InvalidArgument`
   */
  static known(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: ByteRange | undefined;
    },
    { contentLength, pieceLength, pieces }: KnownLayout,
  ): TaskLayout | undefined {
    if (pieces !== undefined) {
      if (pieceLength !== undefined) {
        throw new VortexError("InvalidArgument", "pieces and pieceLength: expected one of them");
      }
      return TaskLayout.#listed(task, pieces, contentLength);
    }
    if (contentLength === undefined) {
      if (pieceLength === undefined) return undefined;
      throw new VortexError("InvalidArgument", "pieceLength is of use with contentLength only");
    }
    const plan = planTask(contentLength, pieceLength ?? pieceLengthFor(contentLength));
    return new TaskLayout(task, plan, undefined, "InvalidArgument");
  }

  /**
   * The layout that a parent told of.
   * @throws `LimitExceeded`, `ProtocolViolation` when it does not agree with itself;
   * `InvalidArgument` for the range
   */
  static announced(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: ByteRange | undefined;
    },
    { contentLength, pieceLength, pieceCount }: TaskOutline,
  ): TaskLayout {
    const isIntegerFrom = (value: number, least: number): boolean =>
      Number.isSafeInteger(value) && value >= least;
    if (
      !isIntegerFrom(contentLength, 0) ||
      !isIntegerFrom(pieceLength, 1) ||
      Math.ceil(contentLength / pieceLength) !== pieceCount
    ) {
      const message = `a task of ${contentLength} bytes in ${pieceCount} pieces of ${pieceLength} announced`;
      throw new VortexError("ProtocolViolation", message);
    }
    return new TaskLayout(
      task,
      { contentLength, pieceLength, pieceCount },
      undefined,
      "LimitExceeded",
    );
  }

  static #listed(
    task: {
      readonly taskId: string;
      readonly kind: PieceKind;
      readonly range?: ByteRange | undefined;
    },
    pieces: readonly ListedPiece[],
    contentLength: number | undefined,
  ): TaskLayout {
    const sorted = [...pieces].sort((a, b) => a.number - b.number);
    let offset = 0;
    for (const [index, piece] of sorted.entries()) {
      requireInteger(`length of piece ${piece.number}`, piece.length, 1, Number.MAX_SAFE_INTEGER);
      if (piece.number !== index || piece.offset !== offset) {
        throw new VortexError(
          "InvalidArgument",
          `piece ${piece.number} at ${piece.offset}: expected piece ${index} at ${offset}, as pieces follow each other without gaps`,
        );
      }
      offset += piece.length;
    }
    if (contentLength !== undefined && contentLength !== offset) {
      throw new VortexError(
        "InvalidArgument",
        `contentLength ${contentLength}: the pieces have ${offset} bytes`,
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

  /** Pieces that are wanted. */
  get wantedCount(): number {
    return this.last - this.first + 1;
  }

  /** Whether all of the task is wanted. */
  get isWhole(): boolean {
    return this.length === this.contentLength;
  }

  /** Whether the caller named the digest of every wanted piece. */
  get hasAllDigests(): boolean {
    if (this.wantedCount === 0) return true;
    const wanted = this.#pieces?.slice(this.first, this.last + 1);
    return wanted?.every(({ parsed }) => parsed !== undefined) ?? false;
  }

  /**
   * Checks the longest piece.
   * @throws when it has more than `most` bytes: `InvalidArgument` for a layout that the caller
   * gave, `LimitExceeded` for one that a parent announced
   */
  requirePieceLength(most: number): void {
    if (this.longestPiece <= most) return;
    const message = `pieces of ${this.longestPiece} bytes: expected at most ${most}, see maxPieceLength`;
    throw new VortexError(this.#limitCode, message);
  }

  /** Where piece `number` lies in the task; the number is one of the task's. */
  extent(number: number): { readonly offset: number; readonly length: number } {
    const listed = this.#pieces?.[number];
    if (listed !== undefined) return { offset: listed.offset, length: listed.length };
    const pieceLength = this.pieceLength ?? this.contentLength;
    const offset = number * pieceLength;
    return { offset, length: Math.min(pieceLength, this.contentLength - offset) };
  }

  /** The digest that the caller gave for a piece, if any. */
  digest(number: number): Digest | undefined {
    return this.#pieces?.[number]?.parsed;
  }

  part(number: number): SinkPart | undefined {
    if (number < this.first || number > this.last) return undefined;
    const { offset, length } = this.extent(number);
    const from = Math.max(offset, this.start);
    const to = Math.min(offset + length, this.start + this.length);
    return { number, position: from - this.start, length: to - from };
  }

  /** The piece that holds the byte at `offset` of the task. */
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

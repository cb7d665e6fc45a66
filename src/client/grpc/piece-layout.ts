import { VortexError } from "../../errors.ts";

/**
 * Maximum number of pieces that a peer may announce for one task. That many pieces of the shortest
 * length in stock Dragonfly have 4 TB.
 */
const MAX_PIECES = 1_000_000;

/** Facts about a task that are known before a peer announces its pieces. */
export interface LayoutOptions {
  /** Address of the peer, for error messages. */
  readonly addr: string;
  /** Maximum accepted length of a piece, in bytes. */
  readonly maxPieceLength: number;
  /** Length of the task in bytes; undefined if not known. */
  readonly contentLength?: number | undefined;
  /** Length in bytes of each piece except the last; undefined if not known. */
  readonly pieceLength?: number | undefined;
  /** Numbers of the requested pieces. Default: all pieces of the task. */
  readonly numbers?: ReadonlySet<number> | undefined;
}

/** Position and length of a piece within its task. */
export interface PieceExtent {
  /** Number of the piece within the task, from 0. */
  readonly number: number;
  /** Offset in bytes of the piece within the content of the task. */
  readonly offset: number;
  /** Length of the piece in bytes. */
  readonly length: number;
}

/**
 * Checks the pieces of one task as a peer announces them, in any order. A piece must agree with the
 * known facts about the task and with the other pieces.
 *
 * All pieces except the last must have the same length, so they cannot overlap. Source:
 * dragonfly-client, `resource/piece.rs`, `calculate_interested`.
 */
export class PieceLayout {
  readonly #options: LayoutOptions;
  readonly #seen = new Set<number>();
  #pieceLength: number | undefined;
  /**
   * Length in bytes of piece 0, if it was announced before the piece length was known. It may be
   * the only piece of the task, and then be shorter than the piece length.
   */
  #firstLength: number | undefined;
  /** Highest number of the accepted pieces. */
  #highestNumber = 0;
  /**
   * Number of the piece that is shorter than the others, and so must be the last one. Infinite
   * until such a piece was announced.
   */
  #lastNumber = Number.POSITIVE_INFINITY;

  constructor(options: LayoutOptions) {
    this.#options = options;
    this.#pieceLength = options.pieceLength;
  }

  /** Number of pieces accepted so far. */
  get count(): number {
    return this.#seen.size;
  }

  /** Highest number of the pieces accepted so far; -1 without one. */
  get highest(): number {
    let highest = -1;
    for (const number of this.#seen) highest = Math.max(highest, number);
    return highest;
  }

  /**
   * Length in bytes of each piece except the last. Undefined until it is known or follows from an
   * announced piece.
   */
  get pieceLength(): number | undefined {
    return this.#pieceLength;
  }

  /**
   * Checks an announced piece and records it.
   *
   * @throws `LimitExceeded` if the piece is longer than `maxPieceLength` or ends beyond 2^53 - 1,
   * or if too many pieces were announced
   * @throws `ProtocolViolation` if the piece was not requested, was announced before, or
   * contradicts the known lengths of the task or other pieces
   */
  accept({
    number,
    offset,
    length,
  }: {
    number: number;
    offset: bigint;
    length: bigint;
  }): PieceExtent {
    const { addr, maxPieceLength, numbers } = this.#options;
    const announced = `${length} bytes at offset ${offset}`;
    if (length > BigInt(maxPieceLength)) {
      throw new VortexError(
        "LimitExceeded",
        `piece ${number}: expected at most ${maxPieceLength} bytes (maxPieceLength), got ${announced}`,
        { addr },
      );
    }
    if (offset + length > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new VortexError(
        "LimitExceeded",
        `piece ${number}: expected an end of at most 2^53 - 1, got ${announced}`,
        { addr },
      );
    }
    if (numbers !== undefined && !numbers.has(number)) {
      throw new VortexError(
        "ProtocolViolation",
        `announcement: expected a requested piece, got piece ${number}`,
        { addr },
      );
    }
    if (this.#seen.has(number)) {
      throw new VortexError(
        "ProtocolViolation",
        `piece ${number}: expected one announcement, got a second one`,
        { addr },
      );
    }
    if (this.#seen.size >= MAX_PIECES) {
      throw new VortexError(
        "LimitExceeded",
        `announced pieces: expected at most ${MAX_PIECES}, got more`,
        { addr },
      );
    }
    const extent = { number, offset: Number(offset), length: Number(length) };
    if (!this.#fits(extent)) {
      throw new VortexError(
        "ProtocolViolation",
        `piece ${number}: expected an extent that fits the task and its other pieces, got ${announced}`,
        { addr },
      );
    }
    this.#seen.add(number);
    return extent;
  }

  /**
   * Returns true if the piece agrees with the known lengths of the task and with the other pieces.
   * Derives the piece length of the task from it, if not known yet.
   */
  #fits({ number, offset, length }: PieceExtent): boolean {
    const { contentLength } = this.#options;
    if (length === 0) return false;
    if (this.#pieceLength === undefined && number === 0 && contentLength === undefined) {
      this.#firstLength = length;
      return offset === 0;
    }
    this.#pieceLength ??= number === 0 ? length : offset / number;
    const pieceLength = this.#pieceLength;
    if (!Number.isInteger(pieceLength) || offset !== number * pieceLength) return false;
    if (contentLength !== undefined)
      return length === Math.min(pieceLength, contentLength - offset);
    if (this.#firstLength !== undefined && this.#firstLength !== pieceLength) return false;
    if (length > pieceLength || number > this.#lastNumber) return false;
    if (length < pieceLength) {
      if (number < this.#highestNumber) return false;
      this.#lastNumber = number;
    }
    this.#highestNumber = Math.max(this.#highestNumber, number);
    return true;
  }
}

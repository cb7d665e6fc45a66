import { VortexError } from "../../errors.ts";

/**
 * Maximum number of pieces that a peer may announce for one task: 4 TB in the shortest pieces that
 * stock Dragonfly makes.
 */
const MAX_PIECES = 1_000_000;

/** Facts about a task that are known before its pieces are announced. */
export interface LayoutOptions {
  /** Address of the peer, for messages. */
  readonly addr: string;
  /** Maximum accepted length of a piece, in bytes. */
  readonly maxPieceLength: number;
  /** Length of the task in bytes, if known. */
  readonly contentLength?: number | undefined;
  /** Length in bytes of each piece except the last, if known. */
  readonly pieceLength?: number | undefined;
  /** Numbers of the requested pieces. Default: all. */
  readonly numbers?: ReadonlySet<number> | undefined;
}

/** Position and length of a piece within its task. */
export interface PieceExtent {
  /** Position in the task, from 0. */
  readonly number: number;
  /** First byte of the piece within the task's content. */
  readonly offset: number;
  /** Length in bytes. */
  readonly length: number;
}

/**
 * Checks the announced pieces of one task, in any order, against the known facts and each other.
 * All pieces except the last must have the same length, so they cannot overlap. Source:
 * dragonfly-client, `resource/piece.rs`, `calculate_interested`.
 */
export class PieceLayout {
  readonly #options: LayoutOptions;
  readonly #seen = new Set<number>();
  #pieceLength: number | undefined;
  /**
   * Length of piece 0 while no other piece has shown the piece length: it may be the only piece,
   * and short.
   */
  #firstLength: number | undefined;
  /** Highest number of an accepted piece. */
  #highestNumber = 0;
  /** Number of the short piece, which must be the last one; infinite until it has come. */
  #lastNumber = Number.POSITIVE_INFINITY;

  constructor(options: LayoutOptions) {
    this.#options = options;
    this.#pieceLength = options.pieceLength;
  }

  /** Number of accepted pieces. */
  get count(): number {
    return this.#seen.size;
  }

  /** Length in bytes of each piece except the last; undefined while unknown. */
  get pieceLength(): number | undefined {
    return this.#pieceLength;
  }

  /**
   * Checks one announcement and records it.
   *
   * @throws `LimitExceeded` for a piece over `maxPieceLength`, beyond 2^53 or over the maximum
   * number of pieces
   * @throws `ProtocolViolation` for a piece that was not requested, is a duplicate, or contradicts
   * the known facts or other pieces
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

  /** Returns true if the piece agrees with the known facts; learns the piece length from it. */
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

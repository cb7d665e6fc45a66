import { VortexError } from "../../errors.ts";

/** Pieces that a peer may announce for one task: 4 TB in the shortest pieces that stock Dragonfly makes. */
const MAX_PIECES = 1_000_000;

/** What is known of a task before its pieces are announced. */
export interface LayoutOptions {
  /** The peer, for messages. */
  readonly addr: string;
  /** Greatest length of a piece that is accepted, in bytes. */
  readonly maxPieceLength: number;
  /** Bytes of the task, if known. */
  readonly contentLength?: number | undefined;
  /** Bytes of each piece but the last, if known. */
  readonly pieceLength?: number | undefined;
  /** The only pieces that may come, if not all. */
  readonly numbers?: ReadonlySet<number> | undefined;
}

/** Where a piece lies within its task. */
export interface PieceExtent {
  /** Position in the task, from 0. */
  readonly number: number;
  /** First byte within the task's content. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/**
 * Checks the pieces of one task that a peer announces, in any order, against what is known of the task and against each
 * other: all have the same length but the last, so none overlap. (dragonfly-client, `resource/piece.rs`,
 * `calculate_interested`.)
 */
export class PieceLayout {
  readonly #options: LayoutOptions;
  readonly #seen = new Set<number>();
  #pieceLength: number | undefined;
  /** Length of piece 0, where nothing else tells the length of pieces: it may be the only one, and short. */
  #first: number | undefined;
  #highest = 0;
  /** Number of the piece that is short, and so the last one. */
  #last = Number.POSITIVE_INFINITY;

  constructor(options: LayoutOptions) {
    this.#options = options;
    this.#pieceLength = options.pieceLength;
  }

  /** How many pieces were announced. */
  get count(): number {
    return this.#seen.size;
  }

  /** Bytes of each piece but the last, as far as it is known. */
  get pieceLength(): number | undefined {
    return this.#pieceLength;
  }

  /**
   * Takes one announcement.
   *
   * @throws `LimitExceeded` for a piece that is too long, lies beyond 2^53 or is one too many; `ProtocolViolation` for one that
   * was not asked for, comes twice or does not fit the others
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
    const what = `piece ${number} announced with ${length} bytes at offset ${offset}`;
    if (length > BigInt(maxPieceLength)) {
      throw new VortexError("LimitExceeded", `${what}: the limit is ${maxPieceLength} bytes`, {
        addr,
      });
    }
    if (offset + length > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new VortexError("LimitExceeded", `${what}: beyond 2^53`, { addr });
    }
    if (numbers !== undefined && !numbers.has(number)) {
      throw new VortexError("ProtocolViolation", `${what}, which was not asked for`, { addr });
    }
    if (this.#seen.has(number)) {
      throw new VortexError("ProtocolViolation", `${what} a second time`, { addr });
    }
    if (this.#seen.size >= MAX_PIECES) {
      throw new VortexError("LimitExceeded", `more than ${MAX_PIECES} pieces announced`, { addr });
    }
    const extent = { number, offset: Number(offset), length: Number(length) };
    if (!this.#fits(extent)) {
      throw new VortexError("ProtocolViolation", `${what}, which does not fit the task`, { addr });
    }
    this.#seen.add(number);
    return extent;
  }

  #fits({ number, offset, length }: PieceExtent): boolean {
    const { contentLength } = this.#options;
    if (length === 0) return false;
    if (this.#pieceLength === undefined && number === 0 && contentLength === undefined) {
      this.#first = length;
      return offset === 0;
    }
    this.#pieceLength ??= number === 0 ? length : offset / number;
    const pieceLength = this.#pieceLength;
    if (!Number.isInteger(pieceLength) || offset !== number * pieceLength) return false;
    if (contentLength !== undefined)
      return length === Math.min(pieceLength, contentLength - offset);
    if (this.#first !== undefined && this.#first !== pieceLength) return false;
    if (length > pieceLength || number > this.#last) return false;
    if (length < pieceLength) {
      if (number < this.#highest) return false;
      this.#last = number;
    }
    this.#highest = Math.max(this.#highest, number);
    return true;
  }
}

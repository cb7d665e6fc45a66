import { type Digest, parseDigest } from "../digest/digest.ts";
import type { Hasher, HasherFactory } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import type { Piece } from "../piece.ts";
import type { TaskOutline } from "./discovery.ts";
import type { TaskLayout } from "./layout.ts";

/**
 * Checks that a piece has the offset and length that the layout gives to its number.
 * @throws `PieceMismatch`
 */
export function requireExtent(
  piece: { readonly number: number; readonly offset: number; readonly length: number },
  layout: TaskLayout,
): void {
  const { offset, length } = layout.extent(piece.number);
  if (piece.offset === offset && piece.length === length) return;
  throw new VortexError(
    "PieceMismatch",
    `position of piece ${piece.number}: expected ${length} bytes at offset ${offset}, ` +
      `got ${piece.length} at ${piece.offset}; the parent has different lengths for the task`,
  );
}

/**
 * Checks an announced digest against the digest that the caller gave for the piece, before its
 * content is transferred.
 * @throws `DigestMismatch`
 */
export function requireDigest({ number, digest }: Piece, layout: TaskLayout): void {
  const expected = layout.digest(number);
  if (expected === undefined || !differs(digest, expected)) return;
  const wanted = `${expected.algorithm}:${expected.encoded}`;
  throw new VortexError(
    "DigestMismatch",
    `announced digest of piece ${number}: expected ${wanted}, got ${digest}`,
  );
}

/**
 * Checks that two parents announced the same lengths and digest for the task.
 * @throws `PieceMismatch`, `DigestMismatch`
 */
export function requireSameOutline(announced: TaskOutline, known: TaskOutline): void {
  const { contentLength, pieceLength } = announced;
  if (contentLength !== known.contentLength || pieceLength !== known.pieceLength) {
    throw new VortexError(
      "PieceMismatch",
      `lengths of the task: expected ${known.contentLength} bytes in pieces of ${known.pieceLength} ` +
        `as from the first parent, got ${contentLength} in pieces of ${pieceLength}`,
    );
  }
  if (known.digest !== undefined) requireTaskDigest(announced, parseDigest(known.digest));
}

/**
 * Checks a parent's digest of the whole task against the expected one.
 * @throws `DigestMismatch`
 */
export function requireTaskDigest({ digest }: TaskOutline, wanted: Digest): void {
  if (digest === undefined || !differs(digest, wanted)) return;
  const { algorithm, encoded } = wanted;
  throw new VortexError(
    "DigestMismatch",
    `announced digest of the task: expected ${algorithm}:${encoded}, got ${digest}`,
  );
}

/**
 * Returns true if two digests prove different contents. Digests by different algorithms prove
 * nothing.
 */
function differs(text: string, { algorithm, encoded }: Digest): boolean {
  const digest = parseDigest(text);
  return digest.algorithm === algorithm && digest.encoded !== encoded;
}

/**
 * Verifies the content of a piece as it passes: its length, and the digest that the caller gave.
 * The digest that the parent announced is verified by the downloader. Also extracts the requested
 * part of the piece and computes its CRC-32.
 */
export class PieceCheck {
  readonly #layout: TaskLayout;
  readonly #piece: Piece;
  /** Offset of the requested part within the piece. */
  readonly #from: number;
  /** End of the requested part within the piece. */
  readonly #to: number;
  /** CRC-32 of the requested part; undefined if the piece's own digest already is that CRC-32. */
  readonly #crc32: Hasher | undefined;
  /**
   * Hash by the algorithm of the caller's digest; undefined if the announced digest uses the same
   * algorithm.
   */
  readonly #callerHash: Hasher | undefined;
  /** Number of bytes processed so far. */
  #position = 0;

  constructor(layout: TaskLayout, piece: Piece, hashers: HasherFactory) {
    this.#layout = layout;
    this.#piece = piece;
    const extent = layout.extent(piece.number);
    const part = layout.part(piece.number);
    this.#from = layout.start + (part?.position ?? 0) - extent.offset;
    this.#to = this.#from + (part?.length ?? 0);
    const { algorithm } = parseDigest(piece.digest);
    const expected = layout.digest(piece.number);
    this.#callerHash =
      expected === undefined || expected.algorithm === algorithm
        ? undefined
        : hashers(expected.algorithm);
    this.#crc32 =
      algorithm === "crc32" && part?.length === extent.length ? undefined : hashers("crc32");
  }

  /**
   * Processes the next bytes of the piece. Returns those of them that belong to the requested part.
   */
  update(chunk: Uint8Array): Uint8Array {
    this.#callerHash?.update(chunk);
    const from = this.#position;
    this.#position += chunk.length;
    const wanted = chunk.subarray(Math.max(0, this.#from - from), Math.max(0, this.#to - from));
    this.#crc32?.update(wanted);
    return wanted;
  }

  /**
   * Verifies length and digest at the end of the content.
   * @throws `LengthMismatch`, `DigestMismatch`
   */
  verify(): void {
    const { number, length } = this.#piece;
    if (this.#position !== length) {
      throw new VortexError(
        "LengthMismatch",
        `length of piece ${number}: expected ${length} bytes, got ${this.#position}`,
      );
    }
    const expected = this.#layout.digest(number);
    const found = this.#callerHash?.encode() ?? expected?.encoded;
    if (expected === undefined || found === expected.encoded) return;
    const { algorithm, encoded } = expected;
    throw new VortexError(
      "DigestMismatch",
      `digest of piece ${number}: expected ${algorithm}:${encoded}, got ${algorithm}:${found}`,
    );
  }

  /** Digest of the whole piece, `algorithm:encoded`: the caller's, or else the announced one. */
  get digest(): string {
    const expected = this.#layout.digest(this.#piece.number);
    return expected === undefined
      ? this.#piece.digest
      : `${expected.algorithm}:${expected.encoded}`;
  }

  /** CRC-32 of the requested part. */
  get crc32(): number {
    return Number(this.#crc32?.encode() ?? parseDigest(this.#piece.digest).encoded);
  }
}

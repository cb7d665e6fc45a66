import { type Digest, parseDigest } from "../digest/digest.ts";
import type { Hasher, HasherFactory } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import type { Piece } from "../piece.ts";
import type { TaskOutline } from "./discovery.ts";
import type { TaskLayout } from "./layout.ts";

/**
 * Requires that a piece has the offset and length that the layout defines for its number.
 *
 * @throws `PieceMismatch` if offset or length differ
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
 * Requires that the digest that a parent announced for a piece is the one that the caller gave.
 * Does nothing if either gave none, or one by another algorithm. Called before the content of
 * the piece is transferred.
 *
 * @throws `DigestMismatch` if the digests differ
 */
export function requireDigest({ number, digest }: Piece, layout: TaskLayout): void {
  const expected = layout.digest(number);
  if (expected === undefined || digest === "" || !differs(digest, expected)) return;
  const wanted = `${expected.algorithm}:${expected.encoded}`;
  throw new VortexError(
    "DigestMismatch",
    `announced digest of piece ${number}: expected ${wanted}, got ${digest}`,
  );
}

/**
 * Requires that two parents reported the same lengths and digest for the task.
 *
 * @param announced lengths and digest of the parent to check
 * @param known lengths and digest of the parent whose response was accepted first
 * @throws `PieceMismatch` if the lengths differ; `DigestMismatch` if the digests differ
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
 * Requires that the digest that a parent reported for the whole content is the expected one. Does
 * nothing if the parent reported none, or one by another algorithm.
 *
 * @throws `DigestMismatch` if the digests differ
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
 * Returns true if two digests are by the same algorithm and differ. Digests by different algorithms
 * cannot be compared, so the result is false.
 */
function differs(text: string, { algorithm, encoded }: Digest): boolean {
  const digest = parseDigest(text);
  return digest.algorithm === algorithm && digest.encoded !== encoded;
}

/**
 * Verifies the content of a piece while it is being received: its length, and the digest that the
 * caller gave for it. Also extracts the requested part of the piece and computes its CRC-32.
 *
 * The digest that the parent announced is not verified here, but by the downloader.
 */
export class PieceCheck {
  /** Layout of the task. */
  readonly #layout: TaskLayout;
  /** Piece that is being received. */
  readonly #piece: Piece;
  /** Offset of the requested part within the piece, in bytes. */
  readonly #from: number;
  /** Offset of the first byte after the requested part, within the piece. */
  readonly #to: number;
  /** Digest of the whole piece that the parent announced; undefined if it announced none. */
  readonly #announced: Digest | undefined;
  /**
   * Computes the CRC-32 of the requested part. Undefined if the announced digest is the CRC-32 of
   * the piece and the whole piece is requested.
   */
  readonly #crc32: Hasher | undefined;
  /**
   * Computes the CRC-32 of the whole piece. Undefined if its digest is known, from the parent or
   * the caller.
   */
  readonly #wholeCrc32: Hasher | undefined;
  /**
   * Computes the digest of the piece by the algorithm of the caller's digest. Undefined if the
   * caller gave no digest, or if the announced digest uses the same algorithm.
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
    const announced = piece.digest === "" ? undefined : parseDigest(piece.digest);
    this.#announced = announced;
    const expected = layout.digest(piece.number);
    this.#callerHash =
      expected === undefined || expected.algorithm === announced?.algorithm
        ? undefined
        : hashers(expected.algorithm);
    const isWhole = part?.length === extent.length;
    this.#crc32 = announced?.algorithm === "crc32" && isWhole ? undefined : hashers("crc32");
    this.#wholeCrc32 =
      announced === undefined && expected === undefined
        ? isWhole
          ? this.#crc32
          : hashers("crc32")
        : undefined;
  }

  /**
   * Processes the next bytes of the piece. Returns the bytes of `chunk` that are in the requested
   * part.
   */
  update(chunk: Uint8Array): Uint8Array {
    this.#callerHash?.update(chunk);
    const from = this.#position;
    this.#position += chunk.length;
    const wanted = chunk.subarray(Math.max(0, this.#from - from), Math.max(0, this.#to - from));
    this.#crc32?.update(wanted);
    if (this.#wholeCrc32 !== this.#crc32) this.#wholeCrc32?.update(chunk);
    return wanted;
  }

  /**
   * Verifies length and digest of the piece, after all its bytes were passed to {@link update}.
   *
   * @throws `LengthMismatch` if the length differs from the announced one; `DigestMismatch` if the
   * digest differs from the one that the caller gave
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

  /**
   * Digest of the whole piece, as `algorithm:encoded`: the one that the caller gave, or else the
   * one that the parent announced. If neither gave one, it is the CRC-32 of the received bytes.
   * Valid after all bytes were passed to {@link update}.
   */
  get digest(): string {
    if (this.#wholeCrc32 !== undefined) return `crc32:${this.#wholeCrc32.encode()}`;
    const expected = this.#layout.digest(this.#piece.number);
    return expected === undefined
      ? this.#piece.digest
      : `${expected.algorithm}:${expected.encoded}`;
  }

  /** True if only the length of the piece can be verified, since its digest is not known. */
  get unverified(): boolean {
    return this.#wholeCrc32 !== undefined;
  }

  /**
   * CRC-32 of the requested part of the piece. Valid after all bytes were passed to {@link update}.
   */
  get crc32(): number {
    return Number(this.#crc32?.encode() ?? this.#announced?.encoded);
  }
}

import { type Digest, parseDigest } from "../digest/digest.ts";
import type { Hasher, HasherFactory } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import type { Piece } from "../piece.ts";
import type { TaskOutline } from "./discovery.ts";
import type { TaskLayout } from "./layout.ts";

/**
 * Throws unless a piece lies where the task has it: bytes at any other place would make another content.
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
    `piece ${piece.number} has ${piece.length} bytes from ${piece.offset} on, expected were ${length} from ${offset} on: ` +
      "the task has another content length or piece length",
  );
}

/**
 * Throws when a piece is announced with another digest than the caller named. Saves fetching it.
 * @throws `DigestMismatch`
 */
export function requireDigest({ number, digest }: Piece, layout: TaskLayout): void {
  const expected = layout.digest(number);
  if (expected === undefined || !differs(digest, expected)) return;
  const wanted = `${expected.algorithm}:${expected.encoded}`;
  throw new VortexError(
    "DigestMismatch",
    `piece ${number} is announced with digest ${digest}, expected was ${wanted}`,
  );
}

/**
 * Throws when two parents tell of different contents.
 * @throws `PieceMismatch`
 */
export function requireSameOutline(told: TaskOutline, known: TaskOutline): void {
  const { contentLength, pieceLength } = told;
  if (contentLength !== known.contentLength || pieceLength !== known.pieceLength) {
    throw new VortexError(
      "PieceMismatch",
      `the parent has a task of ${contentLength} bytes in pieces of ${pieceLength}, the parent that answered first one of ` +
        `${known.contentLength} in pieces of ${known.pieceLength}`,
    );
  }
  if (known.digest !== undefined) requireTaskDigest(told, parseDigest(known.digest));
}

/**
 * Throws when a parent tells of a content with another digest than is wanted.
 * @throws `DigestMismatch`
 */
export function requireTaskDigest({ digest }: TaskOutline, wanted: Digest): void {
  if (digest === undefined || !differs(digest, wanted)) return;
  const { algorithm, encoded } = wanted;
  throw new VortexError(
    "DigestMismatch",
    `the parent has a task of digest ${digest}, wanted is ${algorithm}:${encoded}`,
  );
}

/** Whether two digests are of different contents; of two that are made by different algorithms, nobody can tell. */
function differs(text: string, { algorithm, encoded }: Digest): boolean {
  const told = parseDigest(text);
  return told.algorithm === algorithm && told.encoded !== encoded;
}

/**
 * What is checked of a piece beyond its own digest, as its content passes: that it has all of its bytes, and the digest that
 * the caller named. Cuts out the part that is wanted, and has its CRC-32.
 */
export class PieceCheck {
  readonly #layout: TaskLayout;
  readonly #piece: Piece;
  readonly #from: number;
  readonly #to: number;
  /** Of the wanted part; undefined when the digest of the piece tells it. */
  readonly #crc32: Hasher | undefined;
  /** By the caller's algorithm; undefined when the piece's own digest is by the same. */
  readonly #callerHash: Hasher | undefined;
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

  /** Takes the next bytes of the piece, and returns those that are wanted. */
  update(chunk: Uint8Array): Uint8Array {
    this.#callerHash?.update(chunk);
    const from = this.#position;
    this.#position += chunk.length;
    const wanted = chunk.subarray(Math.max(0, this.#from - from), Math.max(0, this.#to - from));
    this.#crc32?.update(wanted);
    return wanted;
  }

  /**
   * To be called at the end of the content.
   * @throws `LengthMismatch`, `DigestMismatch`
   */
  verify(): void {
    const { number, length } = this.#piece;
    if (this.#position !== length) {
      throw new VortexError(
        "LengthMismatch",
        `piece ${number} has ${this.#position} bytes, announced were ${length}`,
      );
    }
    const expected = this.#layout.digest(number);
    const found = this.#callerHash?.encode() ?? expected?.encoded;
    if (expected === undefined || found === expected.encoded) return;
    const { algorithm, encoded } = expected;
    throw new VortexError(
      "DigestMismatch",
      `piece ${number} has digest ${algorithm}:${found}, expected was ${algorithm}:${encoded}`,
    );
  }

  /** Digest of the whole piece. */
  get digest(): string {
    const expected = this.#layout.digest(this.#piece.number);
    return expected === undefined
      ? this.#piece.digest
      : `${expected.algorithm}:${expected.encoded}`;
  }

  /** CRC-32 of the wanted part. */
  get crc32(): number {
    return Number(this.#crc32?.encode() ?? parseDigest(this.#piece.digest).encoded);
  }
}

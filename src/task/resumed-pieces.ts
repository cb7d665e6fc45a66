import { type Digest, parseDigest } from "../digest/digest.ts";
import type { DigestAlgorithm, HasherFactory } from "../digest/hasher.ts";
import type { TaskLayout } from "./layout.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** Length of one read from the sink, in bytes. */
const READ_BYTES = 1024 * 1024;

/** Dependencies for the verification of pieces that an earlier download stored in the sink. */
export interface ResumeContext {
  /** Layout of the task. */
  readonly layout: TaskLayout;
  /** Session of the sink that contains the pieces. */
  readonly session: SinkSession;
  /** Creates hash functions. */
  readonly hashers: HasherFactory;
  /** Aborts the verification. */
  readonly signal: AbortSignal;
}

/**
 * Returns the requested pieces that an earlier download stored in the sink, without duplicates. The
 * first three are the oldest, the newest and a middle piece, since parents are compared with these.
 * A change of the content during the earlier download most likely happened between two of them.
 */
export function resumedPieces({
  layout,
  session,
}: Pick<ResumeContext, "layout" | "session">): readonly SinkPiece[] {
  const found = new Map<number, SinkPiece>();
  for (const piece of session.resumed) {
    if (layout.part(piece.number) === undefined) continue;
    // A piece that the sink lists twice was fetched again, so its last entry counts.
    found.delete(piece.number);
    found.set(piece.number, piece);
  }
  const pieces = [...found.values()];
  const first = [0, pieces.length - 1, pieces.length >> 1].flatMap((index) => pieces[index] ?? []);
  return [...new Set([...first, ...pieces])];
}

/**
 * Reads a piece of an earlier download from the sink. Returns true if its bytes match its recorded
 * digests and the digest that the caller gave. Returns false if they differ or cannot be read.
 */
export function isIntact(piece: SinkPiece, context: ResumeContext): Promise<boolean> {
  return matches(piece, context).catch(() => false);
}

/**
 * Compares the bytes of a piece of an earlier download with its recorded digests, and with the
 * digest that the caller gave. Rejects if the bytes cannot be read.
 */
async function matches(
  { number, crc32, digest }: SinkPiece,
  context: ResumeContext,
): Promise<boolean> {
  const { layout } = context;
  const part = layout.part(number);
  if (part === undefined) return false;
  const expected: Digest[] = [{ algorithm: "crc32", encoded: String(crc32) }];
  const noted = parseDigest(digest);
  const named = layout.digest(number);
  if (part.length === layout.extent(number).length) {
    expected.push(noted, named ?? noted);
  } else if (
    named !== undefined &&
    (named.algorithm !== noted.algorithm || named.encoded !== noted.encoded)
  ) {
    // The digest of a piece cannot verify a part of it. The part is accepted if the recorded digest
    // of the piece is the one that the caller gave.
    return false;
  }
  const found = await hashPart(
    number,
    expected.map(({ algorithm }) => algorithm),
    context,
  );
  return expected.every(({ algorithm, encoded }) => found?.get(algorithm) === encoded);
}

/**
 * Hashes the requested part of a piece in the sink. Returns the digests by algorithm. Returns
 * undefined if the piece is outside the requested range, or the signal aborted.
 */
export async function hashPart(
  number: number,
  algorithms: Iterable<DigestAlgorithm>,
  { layout, session, hashers, signal }: ResumeContext,
): Promise<ReadonlyMap<DigestAlgorithm, string> | undefined> {
  const part = layout.part(number);
  if (part === undefined) return undefined;
  const hashes = new Map([...new Set(algorithms)].map((name) => [name, hashers(name)]));
  const buffer = new Uint8Array(Math.min(READ_BYTES, part.length));
  for (let at = 0; at < part.length; ) {
    const bytes = await session.read(
      number,
      part.position + at,
      Math.min(READ_BYTES, part.length - at),
      buffer,
    );
    if (signal.aborted) return undefined;
    for (const hash of hashes.values()) hash.update(bytes);
    at += bytes.length;
  }
  return new Map([...hashes].map(([name, hash]) => [name, hash.encode()]));
}

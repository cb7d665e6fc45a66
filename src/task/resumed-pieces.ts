import { type Digest, parseDigest } from "../digest/digest.ts";
import type { DigestAlgorithm, HasherFactory } from "../digest/hasher.ts";
import type { TaskLayout } from "./layout.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** Bytes in one read of what an earlier download left. */
const READ_BYTES = 1024 * 1024;

/** What found pieces are compared with. */
export interface ResumeContext {
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly hashers: HasherFactory;
  /** Ends the comparing. */
  readonly signal: AbortSignal;
}

/**
 * The pieces that an earlier download left and that are wanted now, each once. First the one that came first, the one that came last
 * and one between: a content that changed did so between two of them, so parents are asked about these.
 */
export function resumedPieces({
  layout,
  session,
}: Pick<ResumeContext, "layout" | "session">): readonly SinkPiece[] {
  const found = new Map<number, SinkPiece>();
  for (const piece of session.resumed) {
    if (layout.part(piece.number) === undefined) continue;
    // One that was fetched again came later.
    found.delete(piece.number);
    found.set(piece.number, piece);
  }
  const pieces = [...found.values()];
  const first = [0, pieces.length - 1, pieces.length >> 1].flatMap((index) => pieces[index] ?? []);
  return [...new Set([...first, ...pieces])];
}

/** Reads what an earlier download left of a piece, and tells whether it is what it is said to be. What cannot be read is not. */
export function isIntact(piece: SinkPiece, context: ResumeContext): Promise<boolean> {
  return matches(piece, context).catch(() => false);
}

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
    // A part of a piece has no digest of its own: it is right when the piece was that of the caller.
    return false;
  }
  const found = await hashPart(
    number,
    expected.map(({ algorithm }) => algorithm),
    context,
  );
  return expected.every(({ algorithm, encoded }) => found?.get(algorithm) === encoded);
}

/** Hashes the wanted part of a piece that is in the sink. Undefined for a piece that is not wanted, and once the signal fired. */
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

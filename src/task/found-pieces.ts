import { type Digest, parseDigest } from "../digest/digest.ts";
import type { HasherFactory } from "../digest/hasher.ts";
import type { TaskLayout } from "./layout.ts";
import type { SinkSession, SunkPiece } from "./sink.ts";

/** Bytes in one read of what an earlier download left. */
const READ = 1024 * 1024;

/** What found pieces are compared with. */
export interface FoundContext {
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly hashers: HasherFactory;
  /** Ends the comparing. */
  readonly signal: AbortSignal;
}

/** The pieces that an earlier download left and that are wanted now, each once, in ascending order. */
export function foundPieces({ layout, session }: Pick<FoundContext, "layout" | "session">): readonly SunkPiece[] {
  const found = new Map(session.found.map((piece) => [piece.number, piece]));
  return [...found.values()]
    .filter(({ number }) => layout.part(number) !== undefined)
    .sort((a, b) => a.number - b.number);
}

/** Reads what an earlier download left of a piece, and tells whether it is what it is said to be. What cannot be read is not. */
export function isRight(piece: SunkPiece, context: FoundContext): Promise<boolean> {
  return matches(piece, context).catch(() => false);
}

async function matches(
  { number, crc32, digest }: SunkPiece,
  { layout, session, hashers, signal }: FoundContext,
): Promise<boolean> {
  const part = layout.part(number);
  if (part === undefined) return false;
  const expected: Digest[] = [{ algorithm: "crc32", encoded: String(crc32) }];
  // A part of a piece has no digest of its own.
  if (part.length === layout.extent(number).length) {
    expected.push(parseDigest(digest), layout.digest(number) ?? parseDigest(digest));
  }
  const algorithms = new Set(expected.map(({ algorithm }) => algorithm));
  const hashes = new Map([...algorithms].map((name) => [name, hashers(name)]));
  const buffer = new Uint8Array(Math.min(READ, part.length));
  for (let at = 0; at < part.length; ) {
    const bytes = await session.read(number, part.position + at, Math.min(READ, part.length - at), buffer);
    if (signal.aborted) return false;
    for (const hash of hashes.values()) hash.update(bytes);
    at += bytes.length;
  }
  return expected.every(({ algorithm, encoded }) => hashes.get(algorithm)?.encode() === encoded);
}

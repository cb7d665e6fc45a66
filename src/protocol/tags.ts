import { VortexError } from "../errors.ts";
import { type PieceKind, pieceKinds } from "../piece.ts";

/** Tags of Vortex packets. Source: the Vortex protocol crate 0.1.5, `lib.rs`; 8 to 253 are reserved. */
export const Tag = {
  DownloadPiece: 0,
  PieceContent: 1,
  DownloadPersistentPiece: 2,
  PersistentPieceContent: 3,
  DownloadPersistentCachePiece: 4,
  PersistentCachePieceContent: 5,
  DownloadCachePiece: 6,
  CachePieceContent: 7,
  Close: 254,
  Error: 255,
} as const;

const LAST_PIECE_TAG = Tag.CachePieceContent;

/**
 * The tag that asks for a piece of `kind`.
 * @throws `InvalidArgument` for what is none of {@link pieceKinds}
 */
export function requestTag(kind: PieceKind): number {
  const index = pieceKinds.indexOf(kind);
  // Without this a kind misspelt in plain JavaScript would go out as a close packet.
  if (index < 0)
    throw new VortexError("InvalidArgument", `kind "${kind}": expected ${pieceKinds.join(", ")}`);
  return index * 2;
}

/** The tag that answers with a piece of `kind`. */
export function contentTag(kind: PieceKind): number {
  return requestTag(kind) + 1;
}

/** The kind that a request tag asks for, if `tag` is one. */
export function kindOfRequest(tag: number): PieceKind | undefined {
  return tag <= LAST_PIECE_TAG && tag % 2 === 0 ? pieceKinds[tag / 2] : undefined;
}

/** The kind that a content tag answers with, if `tag` is one. */
export function kindOfContent(tag: number): PieceKind | undefined {
  return tag <= LAST_PIECE_TAG && tag % 2 === 1 ? pieceKinds[(tag - 1) / 2] : undefined;
}

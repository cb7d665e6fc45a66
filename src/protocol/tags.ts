import { VortexError } from "../errors.ts";
import { type PieceKind, pieceKinds } from "../piece.ts";

/**
 * Tags of Vortex packets, which state the type of a packet in its header. The tags 8 to 253 are
 * reserved. Source: `lib.rs` in version 0.1.5 of the Rust crate for the Vortex protocol.
 */
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
 * Returns the tag of a packet that requests a piece of a task of `kind`.
 *
 * @throws `InvalidArgument` if `kind` is not one of {@link pieceKinds}
 */
export function requestTag(kind: PieceKind): number {
  const index = pieceKinds.indexOf(kind);
  // Without this check, a kind misspelt in plain JavaScript would be sent as a close packet.
  if (index < 0)
    throw new VortexError(
      "InvalidArgument",
      `kind: expected ${pieceKinds.join(", ")}, got "${kind}"`,
    );
  return index * 2;
}

/**
 * Returns the tag of a `piece-content` packet, the response with a piece of a task of `kind`.
 *
 * @throws `InvalidArgument` if `kind` is not one of {@link pieceKinds}
 */
export function contentTag(kind: PieceKind): number {
  return requestTag(kind) + 1;
}

/**
 * Returns the kind of task in the request that `tag` stands for, or undefined if `tag` is not the
 * tag of a request.
 */
export function kindOfRequest(tag: number): PieceKind | undefined {
  return tag <= LAST_PIECE_TAG && tag % 2 === 0 ? pieceKinds[tag / 2] : undefined;
}

/**
 * Returns the kind of the task that a piece belongs to, from the tag of its `piece-content` packet.
 * Returns undefined for the tag of any other packet.
 */
export function kindOfContent(tag: number): PieceKind | undefined {
  return tag <= LAST_PIECE_TAG && tag % 2 === 1 ? pieceKinds[(tag - 1) / 2] : undefined;
}

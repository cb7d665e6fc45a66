import { parseDigest } from "../../digest/digest.ts";
import type { DigestAlgorithm, Hasher, HasherFactory } from "../../digest/hasher.ts";
import { VortexError } from "../../errors.ts";
import type { PieceKind, PieceMetadata, UnverifiedPieces } from "../../piece.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";
import {
  type ContentSource,
  DownloadedPiece,
  PieceContent,
  resolveRange,
} from "./piece-content.ts";
import type { CallScope } from "./scope.ts";

/**
 * Metadata of a piece that {@link validateAnnouncement} has checked, with the requested byte range.
 */
export interface ValidAnnouncement {
  readonly kind: PieceKind;
  readonly metadata: PieceMetadata;
  /** Length of the whole piece in bytes, even if only a range of it was requested. */
  readonly length: number;
  /** Digest of the whole piece; undefined if the peer announced none. */
  readonly digest: AnnouncedDigest | undefined;
  /** Offset within the piece of the first byte to return. */
  readonly start: number;
  /** Offset within the piece after the last byte to return. */
  readonly end: number;
}

/** Digest of a piece as announced by a peer. */
export interface AnnouncedDigest {
  /** Digest in normal form, `algorithm:encoded`. */
  readonly text: string;
  readonly algorithm: DigestAlgorithm;
}

/** Settings of a downloader that limit announcements. */
export type AnnouncementLimits = Pick<DownloaderSettings, "maxPieceLength" | "unverifiedPieces">;

/**
 * Checks the metadata of a piece, as announced by the peer, against the request. This is the only
 * check of piece metadata, for all protocols.
 *
 * @throws `PieceMismatch` if the peer announced a piece with another number
 * @throws `LimitExceeded` if the piece is longer than `maxPieceLength`, or ends beyond 2^53 - 1
 * @throws `ProtocolViolation` if the digest is malformed, its algorithm unsupported, or it is
 * missing and `unverifiedPieces` is `refuse`
 * @throws `InvalidArgument` if the requested range is outside of the piece
 */
export function validateAnnouncement(
  request: PieceRequest,
  metadata: PieceMetadata,
  { maxPieceLength, unverifiedPieces }: AnnouncementLimits,
): ValidAnnouncement {
  const { addr } = request;
  if (metadata.number !== request.number) {
    throw new VortexError(
      "PieceMismatch",
      `number of the piece: expected ${request.number}, got ${metadata.number}`,
      { addr },
    );
  }
  if (metadata.length > BigInt(maxPieceLength)) {
    throw new VortexError(
      "LimitExceeded",
      `length of the piece: expected at most ${maxPieceLength} bytes (maxPieceLength), ` +
        `got ${metadata.length}`,
      { addr },
    );
  }
  if (metadata.offset + metadata.length > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new VortexError(
      "LimitExceeded",
      `end of the piece: expected at most 2^53 - 1, got ${metadata.offset + metadata.length}`,
      { addr },
    );
  }
  const length = Number(metadata.length);
  const { start, end } = resolveRange(request.range, length);
  const policy = request.unverifiedPieces ?? unverifiedPieces;
  const digest = announcedDigest(metadata.digest, addr, policy);
  return { kind: request.kind ?? "standard", metadata, length, digest, start, end };
}

/**
 * Creates a piece whose content is verified while it is read from `source`: against its length, and
 * its digest if the peer announced one.
 */
export function readVerified(
  announcement: ValidAnnouncement,
  source: ContentSource,
  scope: CallScope,
  hashers: HasherFactory,
): DownloadedPiece {
  const { digest } = announcement;
  return pieceOf(announcement, source, scope, digest && hashers(digest.algorithm));
}

/**
 * Creates a piece from content whose digest has been verified already. Only the length of the
 * content is checked while it is read.
 */
export function alreadyVerified(
  announcement: ValidAnnouncement,
  source: ContentSource,
  scope: CallScope,
): DownloadedPiece {
  return pieceOf(announcement, source, scope, undefined);
}

function pieceOf(
  { kind, metadata, length, digest, start, end }: ValidAnnouncement,
  source: ContentSource,
  scope: CallScope,
  hasher: Hasher | undefined,
): DownloadedPiece {
  const expected = { length, digest: digest?.text ?? "", hasher, start, end };
  const content = new PieceContent(source, expected, scope);
  return new DownloadedPiece(kind, metadata, content, end - start);
}

/**
 * Parses the digest of a piece as announced by a peer. Returns undefined if it is empty, which is
 * how peers announce that they have none.
 *
 * @throws `ProtocolViolation` if the digest is malformed, its algorithm unsupported, or it is empty
 * and `policy` is `refuse`
 */
export function announcedDigest(
  text: string,
  addr: string,
  policy: UnverifiedPieces,
): AnnouncedDigest | undefined {
  if (text === "") {
    if (policy === "accept") return undefined;
    throw new VortexError(
      "ProtocolViolation",
      'digest of the piece: expected one, got none; unverifiedPieces "accept" allows that',
      { addr },
    );
  }
  try {
    const { algorithm, encoded } = parseDigest(text);
    return { text: `${algorithm}:${encoded}`, algorithm };
  } catch (cause) {
    const detail = cause instanceof Error ? cause.message : String(cause);
    throw new VortexError(
      "ProtocolViolation",
      `digest of the piece: expected one that can be verified, got an invalid one: ${detail}`,
      { cause, addr },
    );
  }
}

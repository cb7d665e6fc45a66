import { parseDigest } from "../../digest/digest.ts";
import type { DigestAlgorithm, Hasher, HasherFactory } from "../../digest/hasher.ts";
import { VortexError } from "../../errors.ts";
import type { PieceKind, PieceMetadata } from "../../piece.ts";
import type { PieceRequest } from "../downloader.ts";
import {
  type ContentSource,
  DownloadedPiece,
  PieceContent,
  resolveRange,
} from "./piece-content.ts";
import type { CallScope } from "./scope.ts";

/** Metadata of a piece that has passed {@link validateAnnouncement}, with the requested range. */
export interface ValidAnnouncement {
  readonly kind: PieceKind;
  readonly metadata: PieceMetadata;
  /** Length of the whole piece, in bytes. */
  readonly length: number;
  /** Digest of the whole piece, `algorithm:encoded`, in its normal form. */
  readonly digest: string;
  readonly algorithm: DigestAlgorithm;
  /** First byte to return, within the piece. */
  readonly start: number;
  /** End of the bytes to return, exclusive. */
  readonly end: number;
}

/**
 * Checks the announced metadata against the request. The only place where metadata from the
 * network, over any protocol, becomes trusted.
 *
 * @param maxPieceLength maximum accepted length of a piece, in bytes
 * @throws `PieceMismatch`, `LimitExceeded`, `ProtocolViolation` for an unsupported digest,
 * `InvalidArgument` for a range outside the piece
 */
export function validateAnnouncement(
  request: PieceRequest,
  metadata: PieceMetadata,
  maxPieceLength: number,
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
  const { digest, algorithm } = announcedDigest(metadata.digest, addr);
  return { kind: request.kind ?? "standard", metadata, length, digest, algorithm, start, end };
}

/** Makes a piece whose content is verified while it is read from `source`. */
export function readVerified(
  announcement: ValidAnnouncement,
  source: ContentSource,
  scope: CallScope,
  hashers: HasherFactory,
): DownloadedPiece {
  return pieceOf(announcement, source, scope, hashers(announcement.algorithm));
}

/**
 * Makes a piece from content whose digest was verified before; only its length is checked again.
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
  const content = new PieceContent(source, { length, digest, hasher, start, end }, scope);
  return new DownloadedPiece(kind, metadata, content, end - start);
}

/**
 * Parses the digest that a peer announced.
 *
 * @throws `ProtocolViolation` for a malformed digest or an unsupported algorithm
 */
export function announcedDigest(
  text: string,
  addr: string,
): { digest: string; algorithm: DigestAlgorithm } {
  try {
    const { algorithm, encoded } = parseDigest(text);
    return { digest: `${algorithm}:${encoded}`, algorithm };
  } catch (cause) {
    const detail = cause instanceof Error ? cause.message : String(cause);
    throw new VortexError(
      "ProtocolViolation",
      `digest of the piece: expected one that can be verified, got an invalid one: ${detail}`,
      { cause, addr },
    );
  }
}

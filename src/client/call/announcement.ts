import { parseDigest } from "../../digest/digest.ts";
import { VortexError } from "../../errors.ts";
import type { PieceMetadata } from "../../piece.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";
import {
  type ContentSource,
  DownloadedPiece,
  PieceContent,
  resolveRange,
} from "./piece-content.ts";
import type { CallScope } from "./scope.ts";

/**
 * Checks the announced metadata against the request, and makes the piece. The only place where
 * metadata from the network, over any protocol, becomes trusted.
 *
 * @throws `PieceMismatch`, `LimitExceeded`, `ProtocolViolation` for an unsupported digest,
 * `InvalidArgument` for a range outside the piece
 */
export function acceptAnnouncement(
  request: PieceRequest,
  metadata: PieceMetadata,
  source: ContentSource,
  scope: CallScope,
  settings: DownloaderSettings,
): DownloadedPiece {
  const { addr } = request;
  if (metadata.number !== request.number) {
    throw new VortexError(
      "PieceMismatch",
      `number of the piece: expected ${request.number}, got ${metadata.number}`,
      { addr },
    );
  }
  if (metadata.length > BigInt(settings.maxPieceLength)) {
    throw new VortexError(
      "LimitExceeded",
      `length of the piece: expected at most ${settings.maxPieceLength} bytes (maxPieceLength), ` +
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
  const hasher = settings.runtime.hashers(algorithm);
  const content = new PieceContent(source, { length, digest, hasher, start, end }, scope);
  return new DownloadedPiece(request.kind ?? "standard", metadata, content, end - start);
}

/**
 * Parses the digest that a peer announced.
 *
 * @throws `ProtocolViolation` for a malformed digest or an unsupported algorithm
 */
export function announcedDigest(
  text: string,
  addr: string,
): { digest: string; algorithm: "crc32" | "sha256" | "sha512" } {
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

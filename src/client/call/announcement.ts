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
 * Checks what a peer announced against what was asked for, and makes the piece. The one place where metadata from the
 * network, of any protocol, becomes trusted.
 *
 * @throws `PieceMismatch`, `LimitExceeded`, `ProtocolViolation` for a digest that cannot be checked, `InvalidArgument` for
 * a range outside the piece
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
      `asked for piece ${request.number}, got piece ${metadata.number}`,
      { addr },
    );
  }
  if (metadata.length > BigInt(settings.maxPieceLength)) {
    throw new VortexError(
      "LimitExceeded",
      `a piece of ${metadata.length} bytes announced: the limit is ${settings.maxPieceLength}`,
      { addr },
    );
  }
  if (metadata.offset + metadata.length > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new VortexError(
      "LimitExceeded",
      `a piece at offset ${metadata.offset} announced: beyond 2^53`,
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
 * The digest that a peer announced, taken apart.
 * @throws `ProtocolViolation` for one that cannot be checked
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
    throw new VortexError("ProtocolViolation", `the piece cannot be verified: ${detail}`, {
      cause,
      addr,
    });
  }
}

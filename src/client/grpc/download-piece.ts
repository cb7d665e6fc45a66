import { type Digest, digestOf, parseDigest } from "../../digest/digest.ts";
import { metadataDigest } from "../../digest/piece-metadata.ts";
import { VortexError } from "../../errors.ts";
import type { Piece as PieceMessage } from "../../gen/common/v2/common_pb.ts";
import type { Piece, PieceMetadata } from "../../piece.ts";
import { alreadyVerified, announcedDigest, validateAnnouncement } from "../call/announcement.ts";
import type { ContentSource } from "../call/piece-content.ts";
import type { CallScope } from "../call/scope.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";

/** Answer of DownloadPiece, and of its variants for other kinds of task. */
export interface PieceAnswer {
  readonly piece?: PieceMessage | undefined;
  /** Digest of the metadata. */
  readonly digest?: string | undefined;
}

/**
 * Verifies an answer: metadata against the request, and content against the metadata. Returns a
 * piece only after all checks have passed.
 *
 * @throws `ProtocolViolation`, `PieceMismatch`, `LimitExceeded`, `LengthMismatch`,
 * `DigestMismatch`, `InvalidArgument` for the range
 */
export function acceptAnswer(
  { piece, digest }: PieceAnswer,
  request: PieceRequest,
  scope: CallScope,
  settings: DownloaderSettings,
): Piece {
  const { addr } = request;
  if (piece === undefined) {
    throw new VortexError("ProtocolViolation", "answer: expected a piece, got none", { addr });
  }
  const metadata = toMetadata(piece);
  const content = piece.content ?? new Uint8Array(0);
  const announcement = validateAnnouncement(request, metadata, settings.maxPieceLength);
  requireLength(content, metadata, addr);
  if (digest !== undefined) requireMetadataDigest(metadata, digest, addr, settings);
  // The digest of the whole piece is verified here, even for a range, and not again while reading.
  requireDigest(content, metadata, addr, settings);
  return alreadyVerified(announcement, oneChunk(content), scope);
}

/**
 * Verifies length and digest of a piece's content against its metadata.
 *
 * @throws `ProtocolViolation` for an unsupported digest, `LengthMismatch`, `DigestMismatch`
 */
export function verifyContent(
  content: Uint8Array,
  metadata: PieceMetadata,
  addr: string,
  settings: DownloaderSettings,
): void {
  requireLength(content, metadata, addr);
  requireDigest(content, metadata, addr, settings);
}

/** Converts a `common.v2.Piece` message to metadata, without any check. */
export function toMetadata(piece: PieceMessage): PieceMetadata {
  return {
    number: piece.number,
    offset: piece.offset,
    length: piece.length,
    digest: piece.digest,
    parentId: piece.parentId ?? "",
    trafficType: piece.trafficType ?? 0,
    costSeconds: piece.cost?.seconds ?? 0n,
    createdAtSeconds: piece.createdAt?.seconds ?? 0n,
  };
}

function requireLength(content: Uint8Array, { length }: PieceMetadata, addr: string): void {
  if (BigInt(content.length) === length) return;
  throw new VortexError(
    "LengthMismatch",
    `length of the content: expected ${length} bytes, got ${content.length}`,
    { addr },
  );
}

function requireDigest(
  content: Uint8Array,
  metadata: PieceMetadata,
  addr: string,
  { runtime }: DownloaderSettings,
): void {
  const { algorithm, digest } = announcedDigest(metadata.digest, addr);
  const found = digestOf(algorithm, content, runtime.hashers);
  if (found === digest) return;
  const message = `digest of the content: expected ${metadata.digest}, got ${found}`;
  throw new VortexError("DigestMismatch", message, { addr });
}

/** @throws `ProtocolViolation` for an unsupported digest, `DigestMismatch` */
function requireMetadataDigest(
  metadata: PieceMetadata,
  digest: string,
  addr: string,
  settings: DownloaderSettings,
): void {
  let announced: Digest;
  try {
    announced = parseDigest(digest);
  } catch (cause) {
    const { message } = VortexError.from(cause, "Internal");
    throw new VortexError(
      "ProtocolViolation",
      `digest of the metadata: expected one that can be verified, got an invalid one: ${message}`,
      { cause, addr },
    );
  }
  const found = metadataDigest(announced.algorithm, metadata, settings.runtime.hashers);
  if (found !== `${announced.algorithm}:${announced.encoded}`) {
    throw new VortexError(
      "DigestMismatch",
      `digest of the metadata: expected ${digest}, got ${found}`,
      { addr },
    );
  }
}

/**
 * Source of content in memory. A read without a buffer returns the bytes themselves. A read into a
 * buffer copies them, and frees the memory of `content` after the last one.
 */
function oneChunk(content: Uint8Array): ContentSource {
  const end = content.length;
  let at = 0;
  return {
    async read(into) {
      if (at === end) return undefined;
      const part = content.subarray(at, into === undefined ? end : at + into.length);
      at += part.length;
      if (into === undefined) return part;
      into.set(part);
      const copy = into.subarray(0, part.length);
      if (at === end) freeBuffer(content);
      return copy;
    },
    cancel() {
      at = end;
    },
  };
}

/**
 * Frees the memory of a message where the runtime supports it (`ArrayBuffer.transfer`). Garbage
 * collection would be late for buffers of this size. Nothing else may use the buffer.
 */
function freeBuffer({ buffer }: Uint8Array): void {
  (buffer as { transfer?(length: number): void }).transfer?.(0);
}

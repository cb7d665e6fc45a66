import { type Digest, digestOf, parseDigest } from "../../digest/digest.ts";
import { metadataDigest } from "../../digest/piece-metadata.ts";
import { VortexError } from "../../errors.ts";
import type { Piece as PieceMessage } from "../../gen/common/v2/common_pb.ts";
import type { Piece, PieceMetadata, UnverifiedPieces } from "../../piece.ts";
import { unshared } from "../../unshared.ts";
import {
  type AnnouncedDigest,
  alreadyVerified,
  announcedDigest,
  validateAnnouncement,
} from "../call/announcement.ts";
import type { ContentSource } from "../call/piece-content.ts";
import type { CallScope } from "../call/scope.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";

/** Response of the RPC method DownloadPiece, or of its variants for other kinds of task. */
export interface PieceAnswer {
  readonly piece?: PieceMessage | undefined;
  /** Digest of the piece's metadata, `algorithm:encoded`. */
  readonly digest?: string | undefined;
}

/**
 * Verifies a DownloadPiece response: the metadata against the request, and the content against the
 * metadata. Returns the piece after all checks have passed.
 *
 * @throws `ProtocolViolation` if the response has no piece, or a digest is malformed, has an
 * unsupported algorithm, or is missing and `unverifiedPieces` is `refuse`
 * @throws `PieceMismatch` if the piece has another number than requested
 * @throws `LimitExceeded` if the piece is longer than `maxPieceLength`, or ends beyond 2^53 - 1
 * @throws `LengthMismatch` if the content has another length than the metadata states
 * @throws `DigestMismatch` if the content or the metadata does not match its digest
 * @throws `InvalidArgument` if the requested range is outside of the piece
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
  const content = unshared(piece.content ?? new Uint8Array(0));
  const announcement = validateAnnouncement(request, metadata, settings);
  requireLength(content, metadata, addr);
  if (digest !== undefined) requireMetadataDigest(metadata, digest, addr, settings);
  // The digest of the whole piece is verified here, even for a range, and not again while reading.
  requireDigest(content, announcement.digest, addr, settings);
  return alreadyVerified(announcement, oneChunk(content), scope);
}

/**
 * Verifies the content of a piece against the length and digest in its metadata.
 *
 * @param policy policy for a piece without a digest
 * @throws `ProtocolViolation` if the digest is malformed, its algorithm unsupported, or it is
 * missing and `policy` is `refuse`
 * @throws `LengthMismatch` if the content has another length
 * @throws `DigestMismatch` if the content has another digest
 */
export function verifyContent(
  content: Uint8Array,
  metadata: PieceMetadata,
  addr: string,
  settings: DownloaderSettings,
  policy: UnverifiedPieces,
): void {
  requireLength(content, metadata, addr);
  requireDigest(content, announcedDigest(metadata.digest, addr, policy), addr, settings);
}

/** Converts a `common.v2.Piece` message to piece metadata, without checking it. */
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
  announced: AnnouncedDigest | undefined,
  addr: string,
  { runtime }: DownloaderSettings,
): void {
  if (announced === undefined) return;
  const found = digestOf(announced.algorithm, content, runtime.hashers);
  if (found === announced.text) return;
  const message = `digest of the content: expected ${announced.text}, got ${found}`;
  throw new VortexError("DigestMismatch", message, { addr });
}

/**
 * Verifies the metadata of a piece against the digest of the metadata in the response.
 *
 * @throws `ProtocolViolation` if `digest` is malformed or its algorithm unsupported
 * @throws `DigestMismatch` if the metadata has another digest
 */
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
 * Creates a reader for content in memory. A read without a buffer returns the bytes themselves. A
 * read into a buffer copies them, and the last such read frees the memory of `content`.
 */
function oneChunk(content: Uint8Array<ArrayBuffer>): ContentSource {
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
    end: async () => end - at,
    cancel() {
      at = end;
    },
  };
}

/**
 * Frees the memory of a received message, where the runtime supports `ArrayBuffer.transfer`.
 * Garbage collection would free such large buffers too late. The buffer must not be used
 * afterwards.
 */
function freeBuffer({ buffer }: Uint8Array): void {
  (buffer as { transfer?(length: number): void }).transfer?.(0);
}

import { type Digest, digestOf, parseDigest } from "../../digest/digest.ts";
import { metadataDigest } from "../../digest/piece-metadata.ts";
import { VortexError } from "../../errors.ts";
import type { Piece as PieceMessage } from "../../gen/common/v2/common_pb.ts";
import type { Piece, PieceMetadata } from "../../piece.ts";
import { acceptAnnouncement, announcedDigest } from "../call/announcement.ts";
import type { ContentSource } from "../call/piece-content.ts";
import type { CallScope } from "../call/scope.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";

/** The answer of DownloadPiece and its twins. */
export interface PieceAnswer {
  readonly piece?: PieceMessage | undefined;
  readonly digest?: string | undefined;
}

/**
 * Checks an answer against the request and against itself. Nothing of a piece is handed out before all of it agreed.
 *
 * @throws `ProtocolViolation`, `PieceMismatch`, `LimitExceeded`, `InvalidArgument` for the range, `LengthMismatch`,
 * `DigestMismatch`
 */
export function acceptAnswer(
  { piece, digest }: PieceAnswer,
  request: PieceRequest,
  scope: CallScope,
  settings: DownloaderSettings,
): Piece {
  const { addr } = request;
  if (piece === undefined)
    throw new VortexError("ProtocolViolation", "the answer holds no piece", { addr });
  const metadata = metadataOf(piece);
  const content = piece.content ?? new Uint8Array(0);
  // The digest of the whole piece is checked below, for a range of it too: the content does not pass a second hash.
  const settled = { update: () => {}, encode: () => parseDigest(metadata.digest).encoded };
  const accepted = acceptAnnouncement(request, metadata, oneChunk(content), scope, {
    ...settings,
    runtime: { ...settings.runtime, hashers: () => settled },
  });
  requireLength(content, metadata, addr);
  if (digest !== undefined) checkMetadata(metadata, digest, addr, settings);
  requireDigest(content, metadata, addr, settings);
  return accepted;
}

/**
 * Checks the content of a piece against what is said of it in the same message.
 * @throws `ProtocolViolation` for a digest that cannot be checked, `LengthMismatch`, `DigestMismatch`
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

/** What a message says of a piece. */
export function metadataOf(piece: PieceMessage): PieceMetadata {
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
    `${content.length} bytes came, announced were ${length}`,
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
  const message = `the content has digest ${found}, announced was ${metadata.digest}`;
  throw new VortexError("DigestMismatch", message, { addr });
}

function checkMetadata(
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
    throw new VortexError("ProtocolViolation", `the metadata cannot be verified: ${message}`, {
      cause,
      addr,
    });
  }
  const found = metadataDigest(announced.algorithm, metadata, settings.runtime.hashers);
  if (found !== `${announced.algorithm}:${announced.encoded}`) {
    throw new VortexError(
      "DigestMismatch",
      `the metadata has digest ${found}, announced was ${digest}`,
      { addr },
    );
  }
}

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
      if (at === end) free(content);
      return copy;
    },
    cancel() {
      at = end;
    },
  };
}

/** Frees the memory of a message, of which nothing else is left, where the runtime can: collectors come late for as much. */
function free({ buffer }: Uint8Array): void {
  (buffer as { transfer?(length: number): void }).transfer?.(0);
}

import { digestOf } from "./digest.ts";
import type { DigestAlgorithm, HasherFactory } from "./hasher.ts";

/** Fields of a piece's metadata that {@link metadataDigest} hashes. */
export interface CoveredMetadata {
  readonly number: number;
  readonly offset: bigint;
  readonly length: bigint;
  readonly digest: string;
}

/**
 * Computes the digest over the metadata of a piece, for the field `digest` of a gRPC DownloadPiece
 * response. The hashed bytes are the piece number (32 bits), its offset and length (64 bits each),
 * all big-endian, and the text of the content digest.
 *
 * Stock Dragonfly uses crc32. Source: dragonfly-client 1.2.1, `DownloadPieceResponse.digest`.
 */
export function metadataDigest(
  algorithm: DigestAlgorithm,
  piece: CoveredMetadata,
  hashers: HasherFactory,
): string {
  const text = new TextEncoder().encode(piece.digest);
  const bytes = new Uint8Array(20 + text.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, piece.number);
  view.setBigUint64(4, piece.offset);
  view.setBigUint64(12, piece.length);
  bytes.set(text, 20);
  return digestOf(algorithm, bytes, hashers);
}

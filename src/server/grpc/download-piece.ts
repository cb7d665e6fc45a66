import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { metadataDigest } from "../../digest/piece-metadata.ts";
import { DownloadPieceResponseSchema } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { PieceKind } from "../../piece.ts";
import { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import { contentBody, contentHead } from "./content.ts";
import type { UploadService } from "./upload-service.ts";

/** Request for DownloadPiece, or for a variant for another kind of task. */
interface PieceRequest {
  readonly taskId: string;
  readonly pieceNumber: number;
}

/** Implements DownloadPiece and its variants: yields one message with a piece and its content. */
export function downloadPiece(
  service: UploadService,
  kind: PieceKind,
  { taskId, pieceNumber: number }: PieceRequest,
  { signal, headers, network }: Call,
): AsyncIterable<Uint8Array> {
  const { settings, lookup } = service;
  const start = { name: "download_piece", taskId, kind, number, headers } as const;
  const answer = new Answer(settings.telemetry, start);

  async function* body(): AsyncGenerator<Uint8Array, void, void> {
    const piece = await lookup.piece(kind, taskId, number, signal);
    const { digest, piece: field } = DownloadPieceResponseSchema.field;
    const checksum = metadataDigest("crc32", piece.metadata, settings.runtime.hashers);
    const before = new BinaryWriter()
      .tag(digest.number, WireType.LengthDelimited)
      .string(checksum)
      .finish();
    const head = contentHead(piece.metadata, [{ before, field: field.number }]);
    answer.bytes = Number(piece.metadata.length);
    yield* contentBody(piece, head, network, signal, settings);
  }

  return answer.stream(body());
}

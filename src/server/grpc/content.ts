import { create, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { PieceSchema } from "../../gen/common/v2/common_pb.ts";
import { DownloadPieceFinishedResponseSchema } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { PieceMetadata } from "../../piece.ts";
import type { StoredPiece } from "../../store/store.ts";
import { rateLimited } from "../admission/rate-limited.ts";
import type { ServerSettings } from "../admission/upload.ts";
import { exactContent } from "../exact.ts";
import { pieceFields } from "./messages.ts";

/** A piece as an envelope: `head`, and the content as the store hands it out, under the rate limit, as a part of the network's share. */
export async function* contentBody(
  piece: StoredPiece,
  head: Uint8Array,
  network: string,
  signal: AbortSignal,
  settings: ServerSettings,
): AsyncGenerator<Uint8Array, void, void> {
  let unsent: Uint8Array | undefined = head;
  const { limiter, pendingWrites } = settings;
  const flow = limiter?.flow(network);
  for await (const chunk of exactContent(piece)) {
    for await (const portion of rateLimited(chunk, flow, signal, pendingWrites)) {
      // Not before there is content: a piece that cannot be read at all is answered by a status alone.
      if (unsent !== undefined) yield unsent;
      unsent = undefined;
      yield portion;
    }
  }
  // Of an empty piece.
  if (unsent !== undefined) yield unsent;
}

/** A message that stands around a piece: its other fields, encoded, and the number of the field that holds the rest. */
export interface Around {
  readonly before: Uint8Array;
  readonly field: number;
}

/** What stands around a piece in an answer of DownloadTask or a twin, outermost first. */
export function aroundPiece(ids: Uint8Array, field: number): readonly Around[] {
  const before = new Uint8Array(0);
  return [
    { before: ids, field },
    { before, field: DownloadPieceFinishedResponseSchema.field.piece.number },
  ];
}

/**
 * Everything of an envelope that comes before a piece's content. The content is the last field of the piece, and the piece
 * the last of what is around it: readers take fields in any order (https://protobuf.dev/programming-guides/encoding/#order).
 */
export function contentHead(metadata: PieceMetadata, around: readonly Around[]): Uint8Array {
  const length = Number(metadata.length);
  const content = new BinaryWriter()
    .tag(PieceSchema.field.content.number, WireType.LengthDelimited)
    .uint32(length);
  return head(concatenated([pieceBytes(metadata), content.finish()]), length, around);
}

/** An envelope with a piece without its content. */
export function withoutContent(metadata: PieceMetadata, around: readonly Around[]): Uint8Array {
  return head(pieceBytes(metadata), 0, around);
}

/** A whole message as an envelope. */
export function envelope(message: Uint8Array): Uint8Array {
  return concatenated([envelopeHeader(message.length), message]);
}

/** The envelope's header, a flag and the length as in gRPC over HTTP/2, and a message but for its last `following` bytes. */
function head(piece: Uint8Array, following: number, around: readonly Around[]): Uint8Array {
  let message = piece;
  for (const { before, field } of around.toReversed()) {
    const tag = new BinaryWriter()
      .tag(field, WireType.LengthDelimited)
      .uint32(message.length + following);
    message = concatenated([before, tag.finish(), message]);
  }
  return concatenated([envelopeHeader(message.length + following), message]);
}

function envelopeHeader(length: number): Uint8Array {
  const header = new Uint8Array(5);
  new DataView(header.buffer).setUint32(1, length);
  return header;
}

function pieceBytes(metadata: PieceMetadata): Uint8Array {
  return toBinary(PieceSchema, create(PieceSchema, pieceFields(metadata)));
}

function concatenated(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

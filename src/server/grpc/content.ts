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

/**
 * Yields a piece as a gRPC envelope: `head`, then the content chunk by chunk as the store reads it.
 * The upload rate limit applies, with the share of `network`.
 */
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
      // Wait for the first chunk: a piece that cannot be read is answered with a status alone.
      if (unsent !== undefined) yield unsent;
      unsent = undefined;
      yield portion;
    }
  }
  // Empty piece: no chunk has sent the head.
  if (unsent !== undefined) yield unsent;
}

/** Message that encloses a piece, as its encoded parts. */
export interface EnclosingMessage {
  /** Encoded fields before the enclosed message. */
  readonly before: Uint8Array;
  /** Number of the field that contains the enclosed message. */
  readonly field: number;
}

/**
 * Returns the messages that enclose a piece in an answer of DownloadTask or a variant, outermost
 * first.
 *
 * @param ids encoded ID fields of the outer message
 * @param field number of its field for a finished piece
 */
export function enclosingMessages(ids: Uint8Array, field: number): readonly EnclosingMessage[] {
  const before = new Uint8Array(0);
  return [
    { before: ids, field },
    { before, field: DownloadPieceFinishedResponseSchema.field.piece.number },
  ];
}

/**
 * Encodes all of an envelope that precedes the content of a piece. The content is the last field of
 * the piece, and the piece the last field of each enclosing message. Readers accept fields in any
 * order (https://protobuf.dev/programming-guides/encoding/#order).
 */
export function contentHead(
  metadata: PieceMetadata,
  enclosing: readonly EnclosingMessage[],
): Uint8Array {
  const length = Number(metadata.length);
  const content = new BinaryWriter()
    .tag(PieceSchema.field.content.number, WireType.LengthDelimited)
    .uint32(length);
  return head(concatenated([pieceBytes(metadata), content.finish()]), length, enclosing);
}

/** Encodes a whole envelope with a piece that has metadata, but no content. */
export function withoutContent(
  metadata: PieceMetadata,
  enclosing: readonly EnclosingMessage[],
): Uint8Array {
  return head(pieceBytes(metadata), 0, enclosing);
}

/** Encodes a message as a gRPC envelope: a flag byte, a 32-bit length and the message. */
export function envelope(message: Uint8Array): Uint8Array {
  return concatenated([envelopeHeader(message.length), message]);
}

/**
 * Encodes an envelope without the last `following` bytes of its message: the header, the enclosing
 * messages and `piece`.
 */
function head(
  piece: Uint8Array,
  following: number,
  enclosing: readonly EnclosingMessage[],
): Uint8Array {
  let message = piece;
  for (const { before, field } of enclosing.toReversed()) {
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

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
 * Yields a piece as one length-prefixed gRPC message: first `head`, then the content in chunks, as
 * the store reads it. The upload rate limit applies.
 *
 * @param head encoded bytes before the content, from {@link contentHead}
 * @param network IPv4 address or IPv6 /64 of the client; the rate limiter counts the bytes against
 * it
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

/**
 * Protobuf message around a piece, split so that the piece can be sent in chunks. The message
 * consists of the fields in `before`, then one field with the enclosed message.
 */
export interface EnclosingMessage {
  /** Encoded fields that precede the enclosed message. */
  readonly before: Uint8Array;
  /** Number of the protobuf field that contains the enclosed message. */
  readonly field: number;
}

/**
 * Returns the protobuf messages around a piece in a response to DownloadTask,
 * DownloadPersistentTask or DownloadPersistentCacheTask, the outermost message first.
 *
 * @param ids encoded ID fields of the outermost message
 * @param field number of the field in the outermost message that contains a finished piece
 */
export function enclosingMessages(ids: Uint8Array, field: number): readonly EnclosingMessage[] {
  const before = new Uint8Array(0);
  return [
    { before: ids, field },
    { before, field: DownloadPieceFinishedResponseSchema.field.piece.number },
  ];
}

/**
 * Encodes the head of a length-prefixed gRPC message that carries a piece: all bytes of the message
 * before the content of the piece. The caller sends the content after the head. For this purpose,
 * the content is the last field of the piece, and the piece is the last field of each enclosing
 * message. Decoders accept fields in any order
 * (https://protobuf.dev/programming-guides/encoding/#order).
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

/**
 * Encodes a complete length-prefixed gRPC message that contains the metadata of a piece, but no
 * content.
 */
export function withoutContent(
  metadata: PieceMetadata,
  enclosing: readonly EnclosingMessage[],
): Uint8Array {
  return enclosed(pieceBytes(metadata), enclosing);
}

/** Encodes a complete length-prefixed gRPC message: `message` within the enclosing messages. */
export function enclosed(message: Uint8Array, enclosing: readonly EnclosingMessage[]): Uint8Array {
  return head(message, 0, enclosing);
}

/**
 * Encodes the start of a length-prefixed gRPC message: the prefix, the headers of the enclosing
 * messages, and `innermost`. The caller sends the last `following` bytes of the innermost field
 * afterwards. The encoded lengths include these bytes.
 */
function head(
  innermost: Uint8Array,
  following: number,
  enclosing: readonly EnclosingMessage[],
): Uint8Array {
  let message = innermost;
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

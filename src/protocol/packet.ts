import { VortexError } from "../errors.ts";
import { type PieceKind, type PieceMetadata, requireInteger } from "../piece.ts";
import { contentTag, kindOfContent, kindOfRequest, requestTag, Tag } from "./tags.ts";

/** Bytes of the header: id, tag and a 32-bit length, all integers big-endian. */
export const HEADER_LENGTH = 6;
/** Bytes of a task id on the wire. */
export const TASK_ID_LENGTH = 64;
/** Bytes of a request's value: the task id and a 32-bit piece number. */
export const REQUEST_LENGTH: number = TASK_ID_LENGTH + 4;
/** Bytes of metadata without its two texts. */
export const METADATA_FIXED_LENGTH = 45;
/** Bytes of the length that precedes the metadata. */
export const METADATA_PREFIX_LENGTH = 4;

/** Codes of error packets. 4 to 255 are reserved. */
export const RemoteErrorCode = {
  Unknown: 0,
  InvalidArgument: 1,
  NotFound: 2,
  Internal: 3,
} as const;

/** Asks for one piece. */
export interface DownloadPiecePacket {
  /** Tells the packets apart. */
  readonly type: "download-piece";
  /** An unsigned byte, chosen by the sender. */
  readonly id: number;
  /** Decides the tag. */
  readonly kind: PieceKind;
  /** 64 bytes in UTF-8; stock peers use 64 hex digits. */
  readonly taskId: string;
  /** Unsigned, 32 bits. */
  readonly number: number;
}

/** Announces a piece. `metadata.length` bytes of raw content follow the packet. */
export interface PieceContentPacket {
  /** Tells the packets apart. */
  readonly type: "piece-content";
  /** An unsigned byte; stock peers do not echo that of the request. */
  readonly id: number;
  /** Decides the tag. */
  readonly kind: PieceKind;
  /** What the peer says about the piece. */
  readonly metadata: PieceMetadata;
}

/** Says that the sender is done. */
export interface ClosePacket {
  /** Tells the packets apart. */
  readonly type: "close";
  /** An unsigned byte. */
  readonly id: number;
}

/** Answers with a failure. */
export interface ErrorPacket {
  /** Tells the packets apart. */
  readonly type: "error";
  /** An unsigned byte. */
  readonly id: number;
  /** An unsigned byte; see {@link RemoteErrorCode}. */
  readonly code: number;
  /** For people, UTF-8 on the wire. */
  readonly message: string;
}

/** A packet with a tag that has no meaning yet; its value is kept as it came. */
export interface ReservedPacket {
  /** Tells the packets apart. */
  readonly type: "reserved";
  /** An unsigned byte. */
  readonly id: number;
  /** 8 to 253. */
  readonly tag: number;
  /** As it came, uninterpreted. */
  readonly value: Uint8Array;
}

/** Any of the eleven kinds of Vortex packet: four requests, four contents, close, error, reserved. */
export type Packet =
  | DownloadPiecePacket
  | PieceContentPacket
  | ClosePacket
  | ErrorPacket
  | ReservedPacket;

/** The six bytes before every value. */
export interface Header {
  readonly id: number;
  readonly tag: number;
  readonly length: number;
}

// chrono's range of dates, which is what the reference decoder takes for created-at.
const EARLIEST_CREATED_AT = -8334601228800n;
const LATEST_CREATED_AT = 8210266876799n;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Encodes a packet, in the form that stock peers send: the header of a piece's content counts the metadata and its
 * length, not the content bytes that follow.
 * @throws `InvalidArgument` for a field out of its range
 */
export function encodePacket(packet: Packet): Uint8Array {
  requireInteger("packet id", packet.id, 0, 0xff);
  switch (packet.type) {
    case "download-piece": {
      const taskId = encoder.encode(packet.taskId);
      if (taskId.length !== TASK_ID_LENGTH) {
        throw new VortexError(
          "InvalidArgument",
          `task id of ${taskId.length} bytes: expected ${TASK_ID_LENGTH} bytes, such as 64 hex digits`,
        );
      }
      requireInteger("piece number", packet.number, 0, 0xffffffff);
      const { bytes, view } = allocate(packet.id, requestTag(packet.kind), REQUEST_LENGTH);
      bytes.set(taskId, HEADER_LENGTH);
      view.setUint32(HEADER_LENGTH + TASK_ID_LENGTH, packet.number);
      return bytes;
    }
    case "piece-content":
      return encodePieceContent(packet);
    case "close":
      return allocate(packet.id, Tag.Close, 0).bytes;
    case "error": {
      requireInteger("error code", packet.code, 0, 0xff);
      const message = encoder.encode(packet.message);
      const { bytes, view } = allocate(packet.id, Tag.Error, 1 + message.length);
      view.setUint8(HEADER_LENGTH, packet.code);
      bytes.set(message, HEADER_LENGTH + 1);
      return bytes;
    }
    case "reserved": {
      requireInteger("reserved tag", packet.tag, Tag.CachePieceContent + 1, Tag.Close - 1);
      const { bytes } = allocate(packet.id, packet.tag, packet.value.length);
      bytes.set(packet.value, HEADER_LENGTH);
      return bytes;
    }
  }
}

/**
 * Decodes exactly one packet, the content of a piece not included. Agrees with the reference decoder but for one point:
 * a close packet that carries a payload is `InvalidLength` here.
 * @throws `InvalidPacket`, `InvalidLength` or `InvalidUtf8`
 */
export function decodePacket(bytes: Uint8Array): Packet {
  if (bytes.length < HEADER_LENGTH) {
    throw new VortexError(
      "InvalidPacket",
      `packet of ${bytes.length} bytes: a header alone has ${HEADER_LENGTH}`,
    );
  }
  const header = decodeHeader(bytes);
  const value = bytes.subarray(HEADER_LENGTH);
  if (value.length !== header.length) {
    throw new VortexError(
      "InvalidLength",
      `value of ${value.length} bytes, announced as ${header.length}`,
    );
  }
  return decodeValue(header, value);
}

/** Decodes the first six bytes of `bytes`, which must hold at least as many. */
export function decodeHeader(bytes: Uint8Array): Header {
  const view = viewOf(bytes);
  return { id: view.getUint8(0), tag: view.getUint8(1), length: view.getUint32(2) };
}

/** Decodes the whole value of a packet. */
export function decodeValue(header: Header, value: Uint8Array): Packet {
  const { id, tag } = header;
  const requested = kindOfRequest(tag);
  if (requested !== undefined) {
    if (value.length !== REQUEST_LENGTH) {
      throw new VortexError(
        "InvalidLength",
        `request of ${value.length} bytes: expected ${REQUEST_LENGTH}`,
      );
    }
    return {
      type: "download-piece",
      id,
      kind: requested,
      taskId: decodeText(value.subarray(0, TASK_ID_LENGTH), "task id"),
      number: viewOf(value).getUint32(TASK_ID_LENGTH),
    };
  }
  const kind = kindOfContent(tag);
  if (kind !== undefined) {
    if (value.length < METADATA_PREFIX_LENGTH) {
      throw new VortexError(
        "InvalidPacket",
        `content packet of ${value.length} bytes: no room for a metadata length`,
      );
    }
    const metadataLength = viewOf(value).getUint32(0);
    if (value.length !== METADATA_PREFIX_LENGTH + metadataLength) {
      throw new VortexError(
        "InvalidPacket",
        `content packet of ${value.length} bytes, with ${metadataLength} bytes of metadata announced`,
      );
    }
    return {
      type: "piece-content",
      id,
      kind,
      metadata: decodeMetadata(value.subarray(METADATA_PREFIX_LENGTH)),
    };
  }
  switch (tag) {
    case Tag.Close:
      if (value.length > 0) {
        throw new VortexError(
          "InvalidLength",
          `close packet with ${value.length} bytes: expected none`,
        );
      }
      return { type: "close", id };
    case Tag.Error:
      if (value.length < 1) throw new VortexError("InvalidLength", "error packet without a code");
      return {
        type: "error",
        id,
        code: viewOf(value).getUint8(0),
        message: decodeText(value.subarray(1), "message"),
      };
    default:
      return { type: "reserved", id, tag, value };
  }
}

/** Decodes the metadata of a piece. Bytes behind its last field are ignored, as the reference decoder does. */
export function decodeMetadata(bytes: Uint8Array): PieceMetadata {
  const view = viewOf(bytes);
  let at = 0;
  const take = (count: number, field: string): number => {
    if (count > bytes.length - at) {
      throw new VortexError(
        "InvalidPacket",
        `metadata of ${bytes.length} bytes ends inside ${field}`,
      );
    }
    at += count;
    return at - count;
  };
  const text = (field: string): string => {
    const length = view.getUint32(take(4, `the length of ${field}`));
    const start = take(length, field);
    return decodeText(bytes.subarray(start, start + length), field);
  };
  const number = view.getUint32(take(4, "number"));
  const offset = view.getBigUint64(take(8, "offset"));
  const length = view.getBigUint64(take(8, "length"));
  const digest = text("digest");
  const parentId = text("parent id");
  const trafficType = view.getUint8(take(1, "traffic type"));
  const costSeconds = view.getBigUint64(take(8, "cost"));
  const createdAtSeconds = view.getBigInt64(take(8, "created-at"));
  if (createdAtSeconds < EARLIEST_CREATED_AT || createdAtSeconds > LATEST_CREATED_AT) {
    throw new VortexError("InvalidPacket", `created-at ${createdAtSeconds} is no date`);
  }
  return { number, offset, length, digest, parentId, trafficType, costSeconds, createdAtSeconds };
}

function encodePieceContent({ id, kind, metadata }: PieceContentPacket): Uint8Array {
  requireInteger("piece number", metadata.number, 0, 0xffffffff);
  requireInteger("traffic type", metadata.trafficType, 0, 0xff);
  requireUnsigned64("offset", metadata.offset);
  requireUnsigned64("length", metadata.length);
  requireUnsigned64("cost", metadata.costSeconds);
  if (
    metadata.createdAtSeconds < EARLIEST_CREATED_AT ||
    metadata.createdAtSeconds > LATEST_CREATED_AT
  ) {
    throw new VortexError(
      "InvalidArgument",
      `created-at ${metadata.createdAtSeconds}: expected Unix seconds of a date`,
    );
  }
  const digest = encoder.encode(metadata.digest);
  const parentId = encoder.encode(metadata.parentId);
  const metadataLength = METADATA_FIXED_LENGTH + digest.length + parentId.length;
  const { bytes, view } = allocate(id, contentTag(kind), METADATA_PREFIX_LENGTH + metadataLength);
  let at = HEADER_LENGTH;
  const advance = (count: number): number => {
    at += count;
    return at - count;
  };
  view.setUint32(advance(4), metadataLength);
  view.setUint32(advance(4), metadata.number);
  view.setBigUint64(advance(8), metadata.offset);
  view.setBigUint64(advance(8), metadata.length);
  view.setUint32(advance(4), digest.length);
  bytes.set(digest, advance(digest.length));
  view.setUint32(advance(4), parentId.length);
  bytes.set(parentId, advance(parentId.length));
  view.setUint8(advance(1), metadata.trafficType);
  view.setBigUint64(advance(8), metadata.costSeconds);
  view.setBigInt64(advance(8), metadata.createdAtSeconds);
  return bytes;
}

function allocate(id: number, tag: number, length: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(HEADER_LENGTH + length);
  const view = viewOf(bytes);
  view.setUint8(0, id);
  view.setUint8(1, tag);
  view.setUint32(2, length);
  return { bytes, view };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function decodeText(bytes: Uint8Array, field: string): string {
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    throw new VortexError("InvalidUtf8", `${field} is not UTF-8`, { cause });
  }
}

function requireUnsigned64(name: string, value: bigint): void {
  if (BigInt.asUintN(64, value) !== value) {
    throw new VortexError(
      "InvalidArgument",
      `${name} ${value}: expected an unsigned 64-bit integer`,
    );
  }
}

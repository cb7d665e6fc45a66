import { requireInteger } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { PieceKind, PieceMetadata } from "../piece.ts";
import { contentTag, kindOfContent, kindOfRequest, requestTag, Tag } from "./tags.ts";

/**
 * Length of a Vortex packet header in bytes: a 1-byte packet ID, a 1-byte tag and a 4-byte length.
 * All integers in packets are big-endian.
 */
export const HEADER_LENGTH = 6;
/** Length of a task ID in a Vortex packet, in bytes. */
export const TASK_ID_LENGTH = 64;
/** Length of the value of a request packet in bytes: the task ID and a 4-byte piece number. */
export const REQUEST_LENGTH: number = TASK_ID_LENGTH + 4;
/**
 * Length in bytes of the fields of encoded piece metadata, except for the digest and the parent ID,
 * which vary in length.
 */
export const METADATA_FIXED_LENGTH = 45;
/**
 * Length in bytes of the length field that precedes the piece metadata in a `piece-content` packet.
 */
export const METADATA_PREFIX_LENGTH = 4;

/** Error codes in error packets of the Vortex protocol. The codes 4 to 255 are reserved. */
export const RemoteErrorCode = {
  Unknown: 0,
  InvalidArgument: 1,
  NotFound: 2,
  Internal: 3,
} as const;

/** Request packet: asks a peer for one piece of a task. */
export interface DownloadPiecePacket {
  /** Packet type, which distinguishes the members of {@link Packet}. */
  readonly type: "download-piece";
  /** Packet ID, an integer from 0 to 255 that the sender chooses. */
  readonly id: number;
  /** Kind of the task. It determines the tag of the packet. */
  readonly kind: PieceKind;
  /** Task ID, which must be 64 bytes long in UTF-8. Stock Dragonfly peers use 64 hex digits. */
  readonly taskId: string;
  /** Number of the requested piece, an unsigned 32-bit integer. */
  readonly number: number;
}

/**
 * Response packet with the metadata of a piece. The sender sends `metadata.length` bytes of raw
 * content after the packet.
 */
export interface PieceContentPacket {
  /** Packet type, which distinguishes the members of {@link Packet}. */
  readonly type: "piece-content";
  /**
   * Packet ID, an integer from 0 to 255. It may differ from the ID of the request: stock Dragonfly
   * peers do not copy that.
   */
  readonly id: number;
  /** Kind of the task. It determines the tag of the packet. */
  readonly kind: PieceKind;
  /** Metadata of the piece: number, offset, length, digest and origin. */
  readonly metadata: PieceMetadata;
}

/** Close packet: announces that the sender sends no further packets. */
export interface ClosePacket {
  /** Packet type, which distinguishes the members of {@link Packet}. */
  readonly type: "close";
  /** Packet ID, an integer from 0 to 255. */
  readonly id: number;
}

/** Error packet: the response to a request that failed. */
export interface ErrorPacket {
  /** Packet type, which distinguishes the members of {@link Packet}. */
  readonly type: "error";
  /** Packet ID, an integer from 0 to 255. */
  readonly id: number;
  /** Error code, an integer from 0 to 255. {@link RemoteErrorCode} lists the defined codes. */
  readonly code: number;
  /** Error message for people. */
  readonly message: string;
}

/**
 * Packet with a tag that the Vortex protocol reserves for the future. Its value is not interpreted.
 */
export interface ReservedPacket {
  /** Packet type, which distinguishes the members of {@link Packet}. */
  readonly type: "reserved";
  /** Packet ID, an integer from 0 to 255. */
  readonly id: number;
  /** Tag of the packet, an integer from 8 to 253. */
  readonly tag: number;
  /** Bytes of the packet after its header. */
  readonly value: Uint8Array;
}

/** Packet of the Vortex protocol in decoded form. */
export type Packet =
  | DownloadPiecePacket
  | PieceContentPacket
  | ClosePacket
  | ErrorPacket
  | ReservedPacket;

/**
 * Header of a Vortex packet: packet ID, tag, and the length of the value that follows, in bytes.
 */
export interface Header {
  readonly id: number;
  readonly tag: number;
  readonly length: number;
}

// Range of created-at in Unix seconds. It is the range of chrono, which the reference decoder uses.
const EARLIEST_CREATED_AT = -8334601228800n;
const LATEST_CREATED_AT = 8210266876799n;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Encodes a packet like stock Dragonfly peers. For a `piece-content` packet, the length in the
 * header counts the metadata and the field for the length of the metadata. It does not count the
 * content, which the caller sends after the packet.
 *
 * @throws `InvalidArgument` if a field of the packet is out of its range
 */
export function encodePacket(packet: Packet): Uint8Array<ArrayBuffer> {
  requireInteger("packet id", packet.id, 0, 0xff);
  switch (packet.type) {
    case "download-piece": {
      const taskId = encoder.encode(packet.taskId);
      if (taskId.length !== TASK_ID_LENGTH) {
        throw new VortexError(
          "InvalidArgument",
          `task id: expected ${TASK_ID_LENGTH} bytes, such as 64 hex digits, got ${taskId.length}`,
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
 * Decodes a byte array that contains exactly one packet. The content of a piece must not follow.
 * Gives the same results as the Rust decoder of Dragonfly, except that it rejects a close packet
 * with a value.
 *
 * @throws `InvalidPacket` or `InvalidLength` if the bytes are not exactly one valid packet
 * @throws `InvalidUtf8` if a text field is not valid UTF-8
 */
export function decodePacket(bytes: Uint8Array): Packet {
  if (bytes.length < HEADER_LENGTH) {
    throw new VortexError(
      "InvalidPacket",
      `packet: expected a header of ${HEADER_LENGTH} bytes, got ${bytes.length} bytes`,
    );
  }
  const header = decodeHeader(bytes);
  const value = bytes.subarray(HEADER_LENGTH);
  if (value.length !== header.length) {
    throw new VortexError(
      "InvalidLength",
      `packet value: expected ${header.length} bytes, as announced, got ${value.length}`,
    );
  }
  return decodeValue(header, value);
}

/**
 * Decodes the packet header at the start of `bytes`. `bytes` must contain at least
 * {@link HEADER_LENGTH} bytes.
 */
export function decodeHeader(bytes: Uint8Array): Header {
  const view = viewOf(bytes);
  return { id: view.getUint8(0), tag: view.getUint8(1), length: view.getUint32(2) };
}

/**
 * Decodes the value of a packet: the bytes that follow the header. `value` must be complete.
 *
 * @throws `InvalidPacket` or `InvalidLength` if the value does not fit the tag in the header
 * @throws `InvalidUtf8` if a text field is not valid UTF-8
 */
export function decodeValue(header: Header, value: Uint8Array): Packet {
  const { id, tag } = header;
  const requested = kindOfRequest(tag);
  if (requested !== undefined) {
    if (value.length !== REQUEST_LENGTH) {
      throw new VortexError(
        "InvalidLength",
        `request value: expected ${REQUEST_LENGTH} bytes, got ${value.length}`,
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
        `content packet: expected a metadata length of 4 bytes, got ${value.length} bytes`,
      );
    }
    const metadataLength = viewOf(value).getUint32(0);
    const rest = value.length - METADATA_PREFIX_LENGTH;
    if (rest !== metadataLength) {
      throw new VortexError(
        "InvalidPacket",
        `content packet: expected ${metadataLength} bytes of metadata, as announced, got ${rest}`,
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
          `close packet: expected no value, got ${value.length} bytes`,
        );
      }
      return { type: "close", id };
    case Tag.Error:
      if (value.length < 1)
        throw new VortexError("InvalidLength", "error packet: expected a code, got no value");
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

/**
 * Decodes the metadata of a piece. Ignores bytes after the last field, like the Rust decoder of
 * Dragonfly.
 *
 * @throws `InvalidPacket` if a field is incomplete or the creation time is not a valid date
 * @throws `InvalidUtf8` if the digest or the parent ID is not valid UTF-8
 */
export function decodeMetadata(bytes: Uint8Array): PieceMetadata {
  const view = viewOf(bytes);
  let at = 0;
  const take = (count: number, field: string): number => {
    if (count > bytes.length - at) {
      throw new VortexError(
        "InvalidPacket",
        `metadata: expected ${at + count} bytes up to the end of ${field}, got ${bytes.length}`,
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
    throw new VortexError(
      "InvalidPacket",
      `created-at: expected Unix seconds of a date, got ${createdAtSeconds}`,
    );
  }
  return { number, offset, length, digest, parentId, trafficType, costSeconds, createdAtSeconds };
}

function encodePieceContent({ id, kind, metadata }: PieceContentPacket): Uint8Array<ArrayBuffer> {
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
      `created-at: expected Unix seconds of a date, got ${metadata.createdAtSeconds}`,
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

function allocate(
  id: number,
  tag: number,
  length: number,
): { bytes: Uint8Array<ArrayBuffer>; view: DataView } {
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
    throw new VortexError("InvalidUtf8", `${field}: expected UTF-8, got other bytes`, { cause });
  }
}

function requireUnsigned64(name: string, value: bigint): void {
  if (BigInt.asUintN(64, value) !== value) {
    throw new VortexError(
      "InvalidArgument",
      `${name}: expected an unsigned 64-bit integer, got ${value}`,
    );
  }
}

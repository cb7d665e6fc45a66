/**
 * Independent implementation of the Vortex protocol as stock Dragonfly writes it. It shares no code
 * with the library, whose codec is tested against it. Source: the Vortex protocol crate 0.1.5, and
 * the Dragonfly client 1.5.
 */
import { seededBytes } from "../support/random.ts";

/** Number of pieces served by the stock peer. */
export const STOCK_PIECES = 5;
/** Length of all pieces except the last, in bytes. */
export const STOCK_PIECE_LENGTH = 700_001;

/** Returns the content of a piece. */
export function stockPiece(number: number): Uint8Array {
  return seededBytes(1000 + number, number === STOCK_PIECES - 1 ? 1234 : STOCK_PIECE_LENGTH);
}

/** Encodes a request for a standard piece like a stock client: header, task id, piece number. */
export function stockRequest(id: number, taskId: string, number: number): Uint8Array {
  const packet = new Uint8Array(6 + 68);
  const view = new DataView(packet.buffer);
  view.setUint8(0, id);
  view.setUint8(1, 0);
  view.setUint32(2, 68);
  packet.set(new TextEncoder().encode(taskId), 6);
  view.setUint32(6 + 64, number);
  return packet;
}

/** Parses a request for a piece. Returns undefined for other packets. */
export function readRequest(
  packet: Uint8Array,
): { id: number; taskId: string; number: number } | undefined {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  if (packet.length !== 74 || view.getUint8(1) !== 0 || view.getUint32(2) !== 68) return undefined;
  const taskId = new TextDecoder().decode(packet.subarray(6, 70));
  return { id: view.getUint8(0), taskId, number: view.getUint32(70) };
}

/**
 * Encodes header and metadata of a response like a stock server: the header length excludes the
 * content.
 */
export function stockAnswer(
  id: number,
  number: number,
  offset: number,
  content: Uint8Array,
): Uint8Array {
  const digest = new TextEncoder().encode(`crc32:${crc32(content)}`);
  const parent = new TextEncoder().encode("10.0.0.1-stock-peer");
  const metadata = 4 + 8 + 8 + 4 + digest.length + 4 + parent.length + 1 + 8 + 8;
  const head = new Uint8Array(6 + 4 + metadata);
  const view = new DataView(head.buffer);
  view.setUint8(0, id);
  view.setUint8(1, 1);
  view.setUint32(2, 4 + metadata);
  view.setUint32(6, metadata);
  let at = 10;
  view.setUint32(at, number);
  view.setBigUint64(at + 4, BigInt(offset));
  view.setBigUint64(at + 12, BigInt(content.length));
  view.setUint32(at + 20, digest.length);
  head.set(digest, at + 24);
  at += 24 + digest.length;
  view.setUint32(at, parent.length);
  head.set(parent, at + 4);
  at += 4 + parent.length;
  // Traffic type 2 (remote peer), then the cost in seconds and the creation time.
  view.setUint8(at, 2);
  view.setBigUint64(at + 1, 3n);
  view.setBigInt64(at + 9, 1_700_000_000n);
  return head;
}

/** Encodes the NotFound error of a stock server. */
export function stockNotFound(id: number): Uint8Array {
  const message = new TextEncoder().encode("piece not found");
  return Uint8Array.of(id, 255, 0, 0, 0, 1 + message.length, 2, ...message);
}

/**
 * Parses a response with a standard piece. Throws on other packets and on lengths that disagree.
 */
export function readAnswer(answer: Uint8Array): {
  number: number;
  offset: number;
  digest: string;
  content: Uint8Array;
} {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength);
  if (view.getUint8(1) !== 1) throw new Error(`expected tag 1, got ${view.getUint8(1)}`);
  const metadata = view.getUint32(6);
  if (view.getUint32(2) !== 4 + metadata)
    throw new Error("the header length differs from the metadata length");
  const length = Number(view.getBigUint64(22));
  const digestLength = view.getUint32(30);
  const content = answer.subarray(10 + metadata);
  if (content.length !== length)
    throw new Error(`${content.length} bytes of content, ${length} announced`);
  return {
    number: view.getUint32(10),
    offset: Number(view.getBigUint64(14)),
    digest: new TextDecoder().decode(answer.subarray(34, 34 + digestLength)),
    content,
  };
}

/** Computes CRC-32 (IEEE) bit by bit. */
export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

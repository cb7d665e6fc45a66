/** Encodes the few messages of scheduler and manager that the lab sends, by field number. */
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/** Field number and value of a field: an integer or flag, a text, or an encoded message. */
export type Field = readonly [number, number | boolean | string | Uint8Array];

/** Encodes a Protobuf message. */
export function message(...fields: readonly Field[]): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  for (const [number, value] of fields) {
    if (typeof value === "number") writer.tag(number, WireType.Varint).uint64(value);
    else if (typeof value === "boolean") writer.tag(number, WireType.Varint).bool(value);
    else if (typeof value === "string") writer.tag(number, WireType.LengthDelimited).string(value);
    else writer.tag(number, WireType.LengthDelimited).bytes(value);
  }
  return writer.finish();
}

/** Adds the five bytes that precede a message in gRPC: no compression, and the length. */
export function framed(encoded: Uint8Array): Uint8Array {
  const frame = new Uint8Array(5 + encoded.length);
  new DataView(frame.buffer).setUint32(1, encoded.length);
  frame.set(encoded, 5);
  return frame;
}

import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";

/**
 * Returns true if a message has more than `maxOverhead` bytes outside the values of its `bytes`
 * fields, or over {@link MAX_MESSAGES} nested messages and map entries.
 *
 * Decoding such bytes is expensive: two of them can become a message or a map entry, which takes
 * many times their memory. So the message is checked before it is decoded: it may be as long as a
 * piece, but only by its content.
 *
 * @param chunks the message, split anywhere. Reading stops once the limit is exceeded
 */
export function exceedsOverhead(
  chunks: readonly Uint8Array[],
  schema: DescMessage,
  maxOverhead: number,
): boolean {
  const cursor = new Cursor(chunks);
  const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  return countOverhead(cursor, schema, length, maxOverhead, { left: MAX_MESSAGES }) > maxOverhead;
}

/**
 * Maximum number of nested messages and map entries in one message. Decoding one takes some
 * microseconds and 500 bytes, even if it is empty: 512 KiB of empty ones blocked a process for a
 * second. An answer without content holds up to 4,000 pieces, each with three messages.
 */
export const MAX_MESSAGES: number = 16_384;

/** Wire types (https://protobuf.dev/programming-guides/encoding/#structure). */
const VARINT = 0;
const FIXED_64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED_32 = 5;

/**
 * Counts the bytes up to `end` outside the values of `bytes` fields. Stops above `maxOverhead`;
 * returns `maxOverhead + 1` if more nested messages come than `messages.left`. Malformed bytes are
 * left to the decoder.
 */
function countOverhead(
  cursor: Cursor,
  schema: DescMessage,
  end: number,
  maxOverhead: number,
  messages: { left: number },
): number {
  let count = 0;
  while (cursor.at < end && count <= maxOverhead) {
    const start = cursor.at;
    const tag = cursor.varint();
    const wireType = tag & 7;
    if (wireType === LENGTH_DELIMITED) {
      const length = cursor.varint();
      const field = fieldOf(schema, tag >>> 3);
      count += cursor.at - start;
      const nested = messageOf(field);
      if (field?.fieldKind === "map" || nested !== undefined) messages.left--;
      if (messages.left < 0) return maxOverhead + 1;
      if (nested !== undefined) {
        count += countOverhead(
          cursor,
          nested,
          Math.min(end, cursor.at + length),
          maxOverhead - count,
          messages,
        );
        continue;
      }
      cursor.skip(length);
      if (field?.fieldKind !== "scalar" || field.scalar !== ScalarType.BYTES) count += length;
      continue;
    }
    if (wireType === VARINT) cursor.varint();
    else if (wireType === FIXED_64) cursor.skip(8);
    else if (wireType === FIXED_32) cursor.skip(4);
    // A group: no message of the API has one, so the whole rest counts.
    else cursor.skip(end - cursor.at);
    count += cursor.at - start;
  }
  return count;
}

/** Returns the message type of a field or of its list items; undefined for other fields. */
function messageOf(field: DescField | undefined): DescMessage | undefined {
  return field?.fieldKind === "message" || field?.fieldKind === "list" ? field.message : undefined;
}

/** Fields by number, for each schema in use. */
const fieldsBySchema = new WeakMap<DescMessage, ReadonlyMap<number, DescField>>();

function fieldOf(schema: DescMessage, number: number): DescField | undefined {
  let fields = fieldsBySchema.get(schema);
  if (fields === undefined) {
    fields = new Map(schema.fields.map((field) => [field.number, field]));
    fieldsBySchema.set(schema, fields);
  }
  return fields.get(number);
}

/** Reads bytes that are split into chunks. Reads 0 behind their end. */
class Cursor {
  /** Number of bytes read or skipped. */
  at = 0;
  readonly #chunks: readonly Uint8Array[];
  /** Index of the current chunk. */
  #chunk = 0;
  /** Position of the next byte in the current chunk. */
  #position = 0;

  constructor(chunks: readonly Uint8Array[]) {
    this.#chunks = chunks;
  }

  /** Reads a varint and returns its lowest 32 bits. */
  varint(): number {
    let value = 0;
    // 64 bits take at most ten bytes.
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.#byte();
      if (shift < 32) value |= (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value >>> 0;
  }

  skip(count: number): void {
    this.at += count;
    this.#position += count;
    this.#settle();
  }

  #byte(): number {
    const byte = this.#chunks[this.#chunk]?.[this.#position] ?? 0;
    this.skip(1);
    return byte;
  }

  /** Moves to the chunk that holds the next byte. */
  #settle(): void {
    for (
      let chunk = this.#chunks[this.#chunk];
      chunk !== undefined && this.#position >= chunk.length;
    ) {
      this.#position -= chunk.length;
      chunk = this.#chunks[++this.#chunk];
    }
  }
}

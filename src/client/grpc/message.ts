import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";

/**
 * Returns true if a Protobuf message has more than `maxOverhead` bytes besides the values of its
 * `bytes` fields. Also returns true if it has more than {@link MAX_MESSAGES} nested messages and
 * map entries.
 *
 * Call this before decoding the message: two encoded bytes can become a nested message or a map
 * entry, which takes far more memory. The values of `bytes` fields take no more memory than
 * encoded.
 *
 * @param chunks encoded message, split at any position; reading stops once a limit is exceeded
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
 * Maximum number of nested messages and map entries in one Protobuf message. Decoding an empty one
 * takes some microseconds and 500 bytes. Without this limit, 512 KiB of empty messages blocked a
 * process for a second.
 *
 * A response without content has up to 4,000 pieces, each with three messages.
 */
export const MAX_MESSAGES: number = 16_384;

/** Protobuf wire types, see https://protobuf.dev/programming-guides/encoding/#structure. */
const VARINT = 0;
const FIXED_64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED_32 = 5;

/**
 * Counts the bytes of a Protobuf message, up to position `end`, besides the values of `bytes`
 * fields. Stops when the count exceeds `maxOverhead`. Does not reject malformed bytes, because the
 * decoder does.
 *
 * @param messages number of nested messages that may still follow
 * @returns the count, or `maxOverhead + 1` if there are more nested messages than `messages.left`
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
    // A group: no message of the API has one, so all remaining bytes count.
    else cursor.skip(end - cursor.at);
    count += cursor.at - start;
  }
  return count;
}

/**
 * Returns the message type of a Protobuf field or of the items of a list field. Returns undefined
 * for a field of another type.
 */
function messageOf(field: DescField | undefined): DescMessage | undefined {
  return field?.fieldKind === "message" || field?.fieldKind === "list" ? field.message : undefined;
}

/** Protobuf fields by field number, for each schema that was used. */
const fieldsBySchema = new WeakMap<DescMessage, ReadonlyMap<number, DescField>>();

function fieldOf(schema: DescMessage, number: number): DescField | undefined {
  let fields = fieldsBySchema.get(schema);
  if (fields === undefined) {
    fields = new Map(schema.fields.map((field) => [field.number, field]));
    fieldsBySchema.set(schema, fields);
  }
  return fields.get(number);
}

/** Reads bytes from a sequence of chunks. After the last byte, it reads zeros. */
class Cursor {
  /** Number of bytes read or skipped so far. */
  at = 0;
  readonly #chunks: readonly Uint8Array[];
  /** Index of the chunk with the next byte. */
  #chunk = 0;
  /** Position of the next byte within its chunk. */
  #position = 0;

  constructor(chunks: readonly Uint8Array[]) {
    this.#chunks = chunks;
  }

  /** Reads a Protobuf varint of up to 64 bits. Returns the lower 32 bits as an unsigned integer. */
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

  /** Moves forward to the chunk that holds the next byte. */
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

import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";

/**
 * Whether a message has more than `most` bytes that are no content, which are all but the values of its fields of bytes; or more
 * messages and entries of maps within it than {@link MAX_MESSAGES}.
 *
 * What a decoder makes of such bytes takes many times their memory, and long: of two bytes it may make a message, or an entry of a map.
 * So a message as long as a piece may be is no more than its content and a little beside it, which is seen here before it is decoded.
 *
 * @param chunks the message, cut anywhere. No more of it is looked at than is counted
 */
export function exceedsFields(
  chunks: readonly Uint8Array[],
  schema: DescMessage,
  most: number,
): boolean {
  const cursor = new Cursor(chunks);
  const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  return countFields(cursor, schema, length, most, { left: MAX_MESSAGES }) > most;
}

/**
 * Each takes a decoder some microseconds and 500 bytes, whether or not there is anything in it: 512 KiB of empty ones held a process for
 * a second. The 4,000 pieces for which an answer without content has room have three each, with their times.
 */
export const MAX_MESSAGES: number = 16_384;

/** Wire types (https://protobuf.dev/programming-guides/encoding/#structure). */
const VARINT = 0;
const BITS_64 = 1;
const DELIMITED = 2;
const BITS_32 = 5;

/** Counts bytes up to `end` that are no content, until they are more than `most`, or as many when there are no `messages` left. What is malformed is for the decoder to say. */
function countFields(
  cursor: Cursor,
  schema: DescMessage,
  end: number,
  most: number,
  messages: { left: number },
): number {
  let count = 0;
  while (cursor.at < end && count <= most) {
    const start = cursor.at;
    const tag = cursor.varint();
    const wireType = tag & 7;
    if (wireType === DELIMITED) {
      const length = cursor.varint();
      const field = fieldOf(schema, tag >>> 3);
      count += cursor.at - start;
      const within = messageOf(field);
      if (field?.fieldKind === "map" || within !== undefined) messages.left--;
      if (messages.left < 0) return most + 1;
      if (within !== undefined) {
        count += countFields(
          cursor,
          within,
          Math.min(end, cursor.at + length),
          most - count,
          messages,
        );
        continue;
      }
      cursor.skip(length);
      if (field?.fieldKind !== "scalar" || field.scalar !== ScalarType.BYTES) count += length;
      continue;
    }
    if (wireType === VARINT) cursor.varint();
    else if (wireType === BITS_64) cursor.skip(8);
    else if (wireType === BITS_32) cursor.skip(4);
    // A group, which no message of the API has: all that follows counts.
    else cursor.skip(end - cursor.at);
    count += cursor.at - start;
  }
  return count;
}

/** What a field, or each item of its list, is a message of. */
function messageOf(field: DescField | undefined): DescMessage | undefined {
  return field?.fieldKind === "message" || field?.fieldKind === "list" ? field.message : undefined;
}

const fieldsOf = new WeakMap<DescMessage, ReadonlyMap<number, DescField>>();

function fieldOf(schema: DescMessage, number: number): DescField | undefined {
  let fields = fieldsOf.get(schema);
  if (fields === undefined) {
    fields = new Map(schema.fields.map((field) => [field.number, field]));
    fieldsOf.set(schema, fields);
  }
  return fields.get(number);
}

/** Reads bytes that lie in chunks. Behind their end, all are 0. */
class Cursor {
  /** Bytes that were read or skipped. */
  at = 0;
  readonly #chunks: readonly Uint8Array[];
  #chunk = 0;
  /** Where the next byte lies in its chunk. */
  #position = 0;

  constructor(chunks: readonly Uint8Array[]) {
    this.#chunks = chunks;
  }

  /** The lowest 32 bits of an integer. */
  varint(): number {
    let value = 0;
    // Ten bytes at most have 64 bits.
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

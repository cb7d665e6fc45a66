import { create, type Message, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { PieceSchema } from "../../gen/common/v2/common_pb.ts";
import { pieceExtent, planTask } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";
import { pieceFields } from "./messages.ts";
import type { PieceSpan } from "./requests.ts";

/**
 * Fields of a protobuf message in encoded form. Assigned to the property `$unknown` of a message,
 * they are sent without being encoded again.
 */
export type EncodedFields = NonNullable<Message["$unknown"]>;

/**
 * Cache of the encoded piece messages of one task. Each message is stored with its length prefix.
 */
class Listing {
  /** Encoded piece messages by piece number; undefined for pieces that are not in the store yet. */
  readonly #pieces: (Uint8Array | undefined)[] = [];
  /**
   * Encoded list of all pieces of the task, by the number of the repeated field. Filled only once
   * the task is complete.
   */
  readonly #all = new Map<number, EncodedFields>();

  /**
   * Returns the pieces of `task` that are in the store, encoded as the repeated field with the
   * number `field`.
   */
  stored(task: StoredTask, field: number): EncodedFields {
    return this.#whole(task, field, () => this.#pieces.filter((piece) => piece !== undefined));
  }

  /**
   * Returns the pieces from number `first` to `last`, encoded as the repeated field with the number
   * `field`. A piece that is not in the store yet has a number, offset and length, but no digest.
   */
  planned(task: StoredTask, field: number, { first, last }: PieceSpan): EncodedFields {
    const plan = planTask(task.contentLength, task.pieceLength);
    const select = (): Uint8Array[] =>
      Array.from({ length: last - first + 1 }, (_, at) => {
        const number = first + at;
        const { offset, length } = pieceExtent(plan, number);
        return (
          this.#pieces[number] ??
          encoded({ number, offset: BigInt(offset), length: BigInt(length) })
        );
      });
    if (first === 0 && last === plan.pieceCount - 1) return this.#whole(task, field, select);
    this.#refresh(task);
    return joined(field, select());
  }

  #whole(task: StoredTask, field: number, select: () => Uint8Array[]): EncodedFields {
    const known = this.#all.get(field);
    if (known !== undefined) return known;
    this.#refresh(task);
    const all = joined(field, select());
    if (task.complete !== false) this.#all.set(field, all);
    return all;
  }

  #refresh(task: StoredTask): void {
    for (const piece of task.pieces()) this.#pieces[piece.number] ??= encoded(pieceFields(piece));
  }
}

const listings = new WeakMap<StoredTask, Listing>();

/**
 * Returns the cache of encoded piece messages of a task. It is created at the first call, and freed
 * together with `task`. Without it, encoding would block the event loop: a piece takes 10 µs, and a
 * task may have tens of thousands of pieces.
 */
export function listingOf(task: StoredTask): Listing {
  const known = listings.get(task);
  if (known !== undefined) return known;
  const listing = new Listing();
  listings.set(task, listing);
  return listing;
}

function encoded(piece: MessageInitShape<typeof PieceSchema>): Uint8Array {
  return new BinaryWriter().bytes(toBinary(PieceSchema, create(PieceSchema, piece))).finish();
}

/**
 * Encodes a repeated field as the data of a single unknown field. The data consists of the first
 * piece, then the tag and the message of each further piece.
 */
function joined(field: number, pieces: readonly Uint8Array[]): EncodedFields {
  const [first] = pieces;
  if (first === undefined) return [];
  const tag = new BinaryWriter().tag(field, WireType.LengthDelimited).finish();
  const data = new Uint8Array(
    pieces.reduce((sum, piece) => sum + tag.length + piece.length, -tag.length),
  );
  let at = -tag.length;
  for (const piece of pieces) {
    // The encoder of the message writes the first tag.
    if (at >= 0) data.set(tag, at);
    data.set(piece, at + tag.length);
    at += tag.length + piece.length;
  }
  return [{ no: field, wireType: WireType.LengthDelimited, data }];
}

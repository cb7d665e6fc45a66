import { create, type Message, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { PieceSchema } from "../../gen/common/v2/common_pb.ts";
import { pieceExtent, planTask } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";
import { pieceFields } from "./messages.ts";
import type { PieceSpan } from "./requests.ts";

/** Fields that are encoded already, for the `$unknown` property of a message. */
export type EncodedFields = NonNullable<Message["$unknown"]>;

/** Cache of the encoded pieces of one task. Each piece has a length prefix. */
class Listing {
  /** Encoded pieces by number, as far as the store has them. */
  readonly #pieces: (Uint8Array | undefined)[] = [];
  /** Encoded list of all pieces of a complete task, by the number of its field. */
  readonly #all = new Map<number, EncodedFields>();

  /** Returns the pieces in the store, encoded as the repeated field `field`. */
  stored(task: StoredTask, field: number): EncodedFields {
    return this.#whole(task, field, () => this.#pieces.filter((piece) => piece !== undefined));
  }

  /**
   * Returns all pieces of a span, encoded as the repeated field `field`. Pieces that are not in the
   * store yet have no digest.
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
 * Returns the cache of encoded pieces of a task, which lives as long as the task object. Encoding a
 * piece takes ten microseconds and blocks the event loop, and a task may have tens of thousands.
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
 * Encodes a repeated field as a single unknown one. Its data is the first piece, followed by the
 * others, each with its tag.
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

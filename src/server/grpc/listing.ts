import { create, type Message, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { PieceSchema } from "../../gen/common/v2/common_pb.ts";
import { pieceExtent, planTask } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";
import { pieceFields } from "./messages.ts";
import type { PieceSpan } from "./requests.ts";

/** Fields of a message that are encoded already, for its `$unknown`. */
export type EncodedFields = NonNullable<Message["$unknown"]>;

/** The pieces of a task, encoded, each with its length before it. */
class Listing {
  /** By number, those that the store has had so far. */
  readonly #pieces: (Uint8Array | undefined)[] = [];
  /** All of a task that is complete, by the number of the field that they are. */
  readonly #all = new Map<number, EncodedFields>();

  /** Those that the store has. */
  held(task: StoredTask, field: number): EncodedFields {
    return this.#whole(task, field, () => this.#pieces.filter((piece) => piece !== undefined));
  }

  /** Those of the span; those to come without a digest. */
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
 * What was encoded of a task's pieces is kept as long as the task: a piece takes ten microseconds, a task may have tens of thousands, and
 * while they are encoded nobody else is served.
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

/** One field, whose value has all but the first of the pieces behind it, each with its tag. */
function joined(field: number, pieces: readonly Uint8Array[]): EncodedFields {
  const [first] = pieces;
  if (first === undefined) return [];
  const tag = new BinaryWriter().tag(field, WireType.LengthDelimited).finish();
  const data = new Uint8Array(
    pieces.reduce((sum, piece) => sum + tag.length + piece.length, -tag.length),
  );
  let at = -tag.length;
  for (const piece of pieces) {
    // The tag of the first is for whoever encodes the message.
    if (at >= 0) data.set(tag, at);
    data.set(piece, at + tag.length);
    at += tag.length + piece.length;
  }
  return [{ no: field, wireType: WireType.LengthDelimited, data }];
}

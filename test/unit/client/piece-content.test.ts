/** Reading content into the caller's memory. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DownloadedPiece, PieceContent } from "../../../src/client/call/piece-content.ts";
import { CallScope } from "../../../src/client/call/scope.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { assertRejects } from "../../support/failures.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";

const content = seededBytes(3, 1000);
const digest = digestOf("crc32", content, portableHashers);

/**
 * Piece whose content comes in chunks of at most `chunk` bytes, in the given memory or elsewhere.
 */
function pieceOf(
  start: number,
  end: number,
  chunk: number,
  places: boolean,
): { piece: DownloadedPiece; reads: number[] } {
  let at = 0;
  const reads: number[] = [];
  const source = {
    async read(into?: Uint8Array<ArrayBuffer>) {
      reads.push(into?.length ?? -1);
      if (at === content.length) return undefined;
      const part = content.subarray(
        at,
        at + Math.min(chunk, places ? (into?.length ?? chunk) : chunk),
      );
      at += part.length;
      if (!places || into === undefined) return part.slice();
      into.set(part);
      return into.subarray(0, part.length);
    },
    end: async () => content.length - at,
    cancel() {},
  };
  const scope = new CallScope(fakeRuntime().clock, {
    pieceTimeout: 1000,
    stallTimeout: 1000,
    what: "piece 0",
    addr: "a:1",
  });
  const expected = { length: content.length, digest, hasher: portableHashers("crc32"), start, end };
  const metadata = {
    number: 0,
    offset: 0n,
    length: BigInt(content.length),
    digest,
    parentId: "",
    trafficType: 1,
    costSeconds: 0n,
    createdAtSeconds: 0n,
  };
  return {
    piece: new DownloadedPiece(
      "standard",
      metadata,
      new PieceContent(source, expected, scope),
      end - start,
    ),
    reads,
  };
}

describe("the bytes of a piece in the caller's memory", () => {
  for (const [start, end] of [
    [0, 1000],
    [0, 1],
    [100, 700],
    [999, 1000],
    [500, 500],
  ] as const) {
    for (const chunk of [1, 64, 1000]) {
      for (const places of [true, false]) {
        it(`${start} to ${end}, of exactly its length and of more, ${chunk} at a time, ${places ? "there" : "elsewhere"}`, async () => {
          for (const more of [0, 1, 500]) {
            const { piece, reads } = pieceOf(start, end, chunk, places);
            const memory = new Uint8Array(end - start + more).fill(0xee);
            const bytes = await piece.bytes(memory);
            assert.deepEqual(bytes, content.slice(start, end));
            assert.equal(bytes.buffer, memory.buffer, "it is the caller's memory");
            assert.ok(!reads.includes(0), "nothing is read into no memory");
          }
        });
      }
    }
  }

  it("one byte shorter than the range is InvalidArgument, and nothing is read", async () => {
    for (const [start, end] of [
      [0, 1000],
      [100, 700],
    ] as const) {
      const { piece, reads } = pieceOf(start, end, 64, true);
      await assertRejects(piece.bytes(new Uint8Array(end - start - 1)), "InvalidArgument");
      assert.deepEqual(reads, []);
    }
  });

  it("shared memory is InvalidArgument, and nothing is read", async () => {
    // The types refuse it; a program without types can pass it.
    const shared = new Uint8Array(new SharedArrayBuffer(1000)) as Uint8Array<never>;
    for (const read of ["bytes", "read"] as const) {
      const { piece, reads } = pieceOf(0, 1000, 64, true);
      await assertRejects(piece[read](shared), "InvalidArgument");
      assert.deepEqual(reads, []);
    }
  });
});

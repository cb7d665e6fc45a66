/** Content of a stored piece, checked against its announced length. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { exactContent } from "../../../src/server/exact.ts";
import type { StoredPiece } from "../../../src/store/store.ts";
import { assertRejects } from "../../support/failures.ts";

/** Returns a piece that announces `length` bytes and yields chunks of the given lengths. */
function pieceOf(length: number, chunks: readonly number[]): StoredPiece {
  const metadata = {
    number: 3,
    offset: 0n,
    length: BigInt(length),
    digest: "crc32:0",
    parentId: "",
    trafficType: 0,
    costSeconds: 0n,
    createdAtSeconds: 0n,
  };
  return {
    metadata,
    async *read() {
      for (const bytes of chunks) yield new Uint8Array(bytes);
    },
  };
}

/** Reads a piece, and notes the length of each chunk in `lengths`, also of a piece that fails. */
async function readInto(lengths: number[], piece: StoredPiece): Promise<void> {
  for await (const chunk of exactContent(piece)) lengths.push(chunk.length);
}

describe("the content of a stored piece", () => {
  it("has no empty chunks", async () => {
    const lengths: number[] = [];
    await readInto(lengths, pieceOf(5, [0, 2, 0, 3, 0]));
    assert.deepEqual(lengths, [2, 3]);
  });

  it("is empty if the piece is", async () => {
    const lengths: number[] = [];
    await readInto(lengths, pieceOf(0, [0]));
    assert.deepEqual(lengths, []);
  });

  it("fails before the chunk that exceeds the announced length", async () => {
    const lengths: number[] = [];
    const error = await assertRejects(readInto(lengths, pieceOf(5, [4, 2, 1])), "StorageFailed");
    assert.match(error.message, /piece 3: expected 5 bytes from the store, got at least 6/);
    assert.deepEqual(lengths, [4]);
  });

  it("fails at its end if bytes are missing", async () => {
    const lengths: number[] = [];
    const error = await assertRejects(readInto(lengths, pieceOf(5, [4])), "StorageFailed");
    assert.match(error.message, /piece 3: expected 5 bytes from the store, got 4$/);
    assert.deepEqual(lengths, [4]);
  });
});

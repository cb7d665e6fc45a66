/** Bytes that no other thread can change. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { describe, it } from "node:test";
import { isUnshared, unshared } from "../../src/unshared.ts";

describe("unshared", () => {
  it("returns bytes of an ArrayBuffer themselves", () => {
    const bytes = Uint8Array.of(1, 2, 3).subarray(1);
    assert.equal(isUnshared(bytes), true);
    assert.equal(unshared(bytes), bytes);
  });

  it("copies bytes of a SharedArrayBuffer, also those of a Buffer, whose slice is a view", () => {
    const shared = new SharedArrayBuffer(3);
    for (const bytes of [new Uint8Array(shared, 1, 2), Buffer.from(shared, 1, 2)]) {
      bytes.set([1, 2]);
      const copy = unshared(bytes);
      bytes.set([8, 9]);
      assert.equal(isUnshared(bytes), false);
      assert.ok(copy.buffer instanceof ArrayBuffer);
      assert.deepEqual([...copy], [1, 2]);
    }
  });
});

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PieceWindow, type PieceWindowOptions } from "../../../src/task/piece-window.ts";

const never = Number.NEGATIVE_INFINITY;

function windowOf(rates: readonly number[], options: Partial<PieceWindowOptions> = {}) {
  const limiters = rates.map((rate) => ({ rate, waitedAt: never }));
  const window = new PieceWindow({
    limiters,
    pieceLength: 1000,
    passTimeMs: 15_000,
    maxPieces: 8,
    now: 0,
    ...options,
  });
  return { window, limiters };
}

describe("the window of pieces in flight under a rate limit", () => {
  it("starts with the pieces that the lowest limit lets pass in the time, between one and the maximum", () => {
    for (const [rates, size] of [
      [[1], 1],
      [[66], 1],
      [[200], 3],
      [[10_000], 8],
      [[10_000, 200], 3],
    ] as const) {
      assert.equal(windowOf(rates).window.size(0), size, `${rates}`);
    }
  });

  it("grows by one for each second without a delay, up to the maximum", () => {
    const { window } = windowOf([1]);
    assert.deepEqual([window.size(999), window.changesAt], [1, 1000]);
    assert.deepEqual([window.size(1000), window.changesAt], [2, 2000]);
    assert.equal(window.size(1999), 2);
    for (let now = 2000; now <= 20_000; now += 1000) window.size(now);
    assert.deepEqual([window.size(20_000), window.changesAt], [8, undefined]);
  });

  it("shrinks by one for each second in which any limit delayed a piece, down to its initial size", () => {
    const { window, limiters } = windowOf([200, 500]);
    for (let now = 1000; now <= 3000; now += 1000) window.size(now);
    assert.equal(window.size(3000), 6);
    for (const [now, size] of [
      [4000, 5],
      [5000, 4],
      [6000, 3],
      [7000, 3],
    ] as const) {
      Object.assign(limiters[1] ?? {}, { waitedAt: now - 1 });
      assert.equal(window.size(now), size);
    }
    // A delay before the last change does not count again.
    assert.equal(window.size(8000), 4);
  });
});

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { resolveRange } from "../../src/client/call/piece-content.ts";
import {
  MAX_PIECE_LENGTH,
  MIN_PIECE_LENGTH,
  pieceExtent,
  pieceLengthFor,
  pieceMetadata,
  planTask,
} from "../../src/piece.ts";
import { assertThrows } from "../support/failures.ts";

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

describe("pieceLengthFor: content length / 500, next power of two, 4 to 64 MiB", () => {
  const lengths: [what: string, contentLength: number, pieceLength: number][] = [
    ["an empty task", 0, 4 * MiB],
    ["one byte", 1, 4 * MiB],
    ["500 pieces of 4 MiB", 500 * 4 * MiB, 4 * MiB],
    ["499 bytes more, which the division drops", 500 * 4 * MiB + 499, 4 * MiB],
    ["500 bytes more", 500 * 4 * MiB + 500, 8 * MiB],
    ["500 pieces of 8 MiB", 500 * 8 * MiB, 8 * MiB],
    ["500 pieces of 8 MiB and 500 bytes", 500 * 8 * MiB + 500, 16 * MiB],
    ["30 GiB", 30 * GiB, 64 * MiB],
    ["500 pieces of 32 MiB", 500 * 32 * MiB, 32 * MiB],
    ["500 pieces of 32 MiB and 500 bytes", 500 * 32 * MiB + 500, 64 * MiB],
    ["500 pieces of 64 MiB", 500 * 64 * MiB, 64 * MiB],
    ["more than 500 pieces of 64 MiB", 501 * 64 * MiB, 64 * MiB],
    ["the longest length that a number holds", Number.MAX_SAFE_INTEGER, 64 * MiB],
  ];
  for (const [what, contentLength, pieceLength] of lengths) {
    it(`${what}: ${pieceLength / MiB} MiB`, () => {
      assert.equal(pieceLengthFor(contentLength), pieceLength);
    });
  }

  it("agrees with a direct computation, for lengths around every power of two", () => {
    for (let exponent = 0; exponent < 44; exponent++) {
      for (const factor of [1, 500]) {
        for (const extra of [-1, 0, 1, 499, 500]) {
          const contentLength = Math.max(0, factor * 2 ** exponent + extra);
          const nextPower = 2 ** Math.ceil(Math.log2(Math.max(1, Math.floor(contentLength / 500))));
          const expected = Math.min(MAX_PIECE_LENGTH, Math.max(MIN_PIECE_LENGTH, nextPower));
          assert.equal(pieceLengthFor(contentLength), expected, String(contentLength));
        }
      }
    }
  });
});

describe("planTask", () => {
  it("an empty task has no pieces", () => {
    const plan = planTask(0);
    assert.deepEqual(plan, { contentLength: 0, pieceLength: 4 * MiB, pieceCount: 0 });
    assertThrows(() => pieceExtent(plan, 0), "InvalidArgument");
  });

  it("one byte is one short piece", () => {
    const plan = planTask(1);
    assert.equal(plan.pieceCount, 1);
    assert.deepEqual(pieceExtent(plan, 0), { offset: 0, length: 1 });
  });

  it("a multiple of the piece length has no short piece; a byte more adds one of a byte, a byte less shortens the last", () => {
    assert.deepEqual(pieceExtent(planTask(8 * MiB), 1), { offset: 4 * MiB, length: 4 * MiB });
    assert.equal(planTask(8 * MiB).pieceCount, 2);
    assert.deepEqual(pieceExtent(planTask(8 * MiB + 1), 2), { offset: 8 * MiB, length: 1 });
    assert.deepEqual(pieceExtent(planTask(8 * MiB - 1), 1), {
      offset: 4 * MiB,
      length: 4 * MiB - 1,
    });
  });

  it("the pieces cover the content without gap or overlap", () => {
    for (const [contentLength, pieceLength] of [
      [1000, 7],
      [1001, 7],
      [1, 1],
      [123_456, 123_455],
      [9 * MiB + 5, undefined],
    ] as const) {
      const plan = planTask(contentLength, pieceLength);
      let at = 0;
      for (let number = 0; number < plan.pieceCount; number++) {
        const { offset, length } = pieceExtent(plan, number);
        assert.equal(offset, at);
        assert.ok(length > 0 && length <= plan.pieceLength);
        at += length;
      }
      assert.equal(at, contentLength);
    }
  });

  it("a piece number outside of the task is InvalidArgument", () => {
    const plan = planTask(9 * MiB);
    for (const number of [-1, 3, 0.5, Number.NaN])
      assertThrows(() => pieceExtent(plan, number), "InvalidArgument");
  });

  it("invalid lengths, and more pieces than piece numbers, are InvalidArgument", () => {
    for (const length of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      assertThrows(() => planTask(length), "InvalidArgument");
    }
    for (const length of [0, -1, 0.5]) assertThrows(() => planTask(10, length), "InvalidArgument");
    assert.equal(planTask(0xffffffff, 1).pieceCount, 0xffffffff);
    assertThrows(() => planTask(0x100000000, 1), "InvalidArgument");
  });
});

describe("a range within a piece", () => {
  it("defaults to the whole piece", () => {
    assert.deepEqual(resolveRange(undefined, 10), { start: 0, end: 10 });
    assert.deepEqual(resolveRange({ start: 3 }, 10), { start: 3, end: 10 });
    assert.deepEqual(resolveRange({ start: 0, end: 0 }, 10), { start: 0, end: 0 });
    assert.deepEqual(resolveRange({ start: 10, end: 10 }, 10), { start: 10, end: 10 });
  });

  it("outside of the piece, reversed or fractional is InvalidArgument", () => {
    for (const range of [
      { start: 0, end: 11 },
      { start: 11 },
      { start: 4, end: 3 },
      { start: -1, end: 3 },
      { start: 0.5 },
      { start: 0, end: 1.5 },
      { start: Number.NaN },
    ]) {
      const { message } = assertThrows(() => resolveRange(range, 10), "InvalidArgument");
      const { start, end = 10 } = range;
      const expected = "integers, 0 <= range.start <= range.end <= 10, the length of the piece";
      assert.equal(
        message,
        `range: expected ${expected}, got range.start ${start}, range.end ${end}`,
      );
    }
  });
});

describe("pieceMetadata", () => {
  const piece = { number: 1, offset: 4096, length: 10n, digest: "crc32:7" };

  it("converts numbers to bigint and adds the defaults", () =>
    assert.deepEqual(pieceMetadata(piece), {
      number: 1,
      offset: 4096n,
      length: 10n,
      digest: "crc32:7",
      parentId: "",
      trafficType: 2,
      costSeconds: 0n,
      createdAtSeconds: 0n,
    }));

  it("keeps all fields that are given", () => {
    const given = { parentId: "p", trafficType: 1, costSeconds: 2, createdAtSeconds: 3n };
    assert.deepEqual(pieceMetadata({ ...piece, ...given }), {
      ...piece,
      ...given,
      offset: 4096n,
      costSeconds: 2n,
    });
  });

  it("rejects missing and unknown fields, and values outside their range", () => {
    const wrong: readonly object[] = [
      { number: -1 },
      { number: 2 ** 32 },
      { number: 1n },
      { offset: -1n },
      { offset: 0.5 },
      { length: undefined },
      { length: 2n ** 64n },
      { digest: "" },
      { parentId: 1 },
      { trafficType: 256 },
      { costSeconds: -1 },
      { createdAtSeconds: Number.NaN },
      { size: 1 },
    ];
    for (const fields of wrong)
      assertThrows(() => pieceMetadata({ ...piece, ...fields }), "InvalidArgument");
  });
});

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type LayoutOptions, PieceLayout } from "../../../src/client/grpc/piece-layout.ts";
import type { ErrorCode } from "../../../src/errors.ts";
import { assertThrows } from "../../support/failures.ts";

type Announcement = readonly [number: number, offset: number | bigint, length: number | bigint];

function layoutOf(options: Partial<LayoutOptions> = {}): PieceLayout {
  return new PieceLayout({ addr: "127.0.0.1:4000", maxPieceLength: 1000, ...options });
}

function announce(layout: PieceLayout, [number, offset, length]: Announcement) {
  return layout.accept({ number, offset: BigInt(offset), length: BigInt(length) });
}

describe("PieceLayout accepts", () => {
  const whole: readonly Announcement[] = [
    [0, 0, 100],
    [1, 100, 100],
    [2, 200, 50],
  ];
  const orders = [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
    [0, 2, 1],
  ];
  for (const known of [
    {},
    { contentLength: 250 },
    { pieceLength: 100 },
    { contentLength: 250, pieceLength: 100 },
  ]) {
    for (const order of orders) {
      it(`the pieces of a task, in the order ${order}, knowing ${Object.keys(known).join(" and ") || "nothing"}`, () => {
        const layout = layoutOf(known);
        for (const number of order) {
          const announcement = whole[number];
          assert.ok(announcement);
          const extent = announce(layout, announcement);
          assert.deepEqual(extent, { number, offset: announcement[1], length: announcement[2] });
        }
        assert.equal(layout.count, 3);
        assert.equal(layout.pieceLength, 100);
      });
    }
  }

  it("a single piece, and a subset of the pieces", () => {
    announce(layoutOf(), [0, 0, 7]);
    announce(layoutOf({ contentLength: 7 }), [0, 0, 7]);
    const some = layoutOf({ numbers: new Set([4, 9]) });
    announce(some, [9, 900, 100]);
    announce(some, [4, 400, 100]);
    assert.equal(some.count, 2);
  });
});

describe("PieceLayout rejects", () => {
  const cases: readonly [string, ErrorCode, Partial<LayoutOptions>, readonly Announcement[]][] = [
    ["a piece without bytes", "ProtocolViolation", {}, [[0, 0, 0]]],
    ["a first piece that is not at the start", "ProtocolViolation", {}, [[0, 1, 100]]],
    ["an offset that no piece length gives", "ProtocolViolation", {}, [[3, 100, 10]]],
    ["a later piece at the start", "ProtocolViolation", {}, [[3, 0, 10]]],
    ["a piece that overlaps the next", "ProtocolViolation", {}, [[1, 100, 101]]],
    [
      "overlapping pieces",
      "ProtocolViolation",
      {},
      [
        [1, 100, 100],
        [2, 150, 100],
      ],
    ],
    [
      "pieces of two lengths",
      "ProtocolViolation",
      {},
      [
        [0, 0, 100],
        [1, 90, 90],
      ],
    ],
    [
      "a short first piece before others",
      "ProtocolViolation",
      {},
      [
        [0, 0, 50],
        [1, 100, 100],
      ],
    ],
    [
      "a short piece after which another came",
      "ProtocolViolation",
      {},
      [
        [2, 200, 100],
        [1, 100, 50],
      ],
    ],
    [
      "a piece behind the short one",
      "ProtocolViolation",
      {},
      [
        [1, 100, 50],
        [2, 200, 100],
      ],
    ],
    [
      "a piece that comes twice",
      "ProtocolViolation",
      {},
      [
        [1, 100, 100],
        [1, 100, 100],
      ],
    ],
    [
      "a piece that was not asked for",
      "ProtocolViolation",
      { numbers: new Set([1]) },
      [[2, 200, 100]],
    ],
    [
      "a piece of another length than the task's",
      "ProtocolViolation",
      { pieceLength: 100 },
      [[1, 50, 50]],
    ],
    ["a piece behind the end", "ProtocolViolation", { contentLength: 200 }, [[2, 200, 100]]],
    ["a piece over the end", "ProtocolViolation", { contentLength: 250 }, [[2, 200, 100]]],
    ["a piece short of the end", "ProtocolViolation", { contentLength: 250 }, [[2, 200, 40]]],
    ["a piece that is too long", "LimitExceeded", {}, [[0, 0, 1001]]],
    ["a length of 64 bits", "LimitExceeded", {}, [[0, 0, (1n << 64n) - 1n]]],
    ["an offset beyond 2^53", "LimitExceeded", {}, [[1, 1n << 53n, 1]]],
    ["an offset of 64 bits", "LimitExceeded", {}, [[1, (1n << 64n) - 1n, 1]]],
  ];
  for (const [what, code, options, announcements] of cases) {
    it(`${what}: ${code}`, () => {
      const layout = layoutOf(options);
      const last = announcements.at(-1);
      assert.ok(last);
      for (const announcement of announcements.slice(0, -1)) announce(layout, announcement);
      const error = assertThrows(() => announce(layout, last), code);
      assert.equal(error.addr, "127.0.0.1:4000");
    });
  }

  it("more pieces than the limit", () => {
    const layout = layoutOf({ pieceLength: 1 });
    const error = assertThrows(() => {
      for (let number = 0; ; number++) announce(layout, [number, number, 1]);
    }, "LimitExceeded");
    assert.match(error.message, /announced pieces: expected at most 1000000, got more/);
  });
});

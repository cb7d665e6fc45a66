import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { crc32Combine } from "../../../src/digest/crc32-combine.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { TaskLayout } from "../../../src/task/layout.ts";
import { parentsOf } from "../../../src/task/parents.ts";
import { PieceBuffers } from "../../../src/task/piece-buffers.ts";
import { PieceWrite } from "../../../src/task/piece-write.ts";
import { resumedPieces } from "../../../src/task/resumed-pieces.ts";
import type { SinkPart, SinkSession } from "../../../src/task/sink.ts";
import { ParentSlots, type SlotHolder } from "../../../src/task/slots.ts";
import { ThroughputMeter } from "../../../src/task/throughput-meter.ts";
import { TransferStats } from "../../../src/task/transfer-stats.ts";
import { assertThrows } from "../../support/failures.ts";
import { joined } from "../../support/random.ts";

const seed = { seed: 4713 };

function crc32(bytes: Uint8Array): number {
  return Number(digestOf("crc32", bytes, portableHashers).slice("crc32:".length));
}

describe("the combined CRC-32 of parts", () => {
  it("is that of the whole, for any cut", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 6 }), (parts) => {
        const found = parts.reduce((crc, part) => crc32Combine(crc, crc32(part), part.length), 0);
        assert.equal(found, crc32(joined(parts)));
      }),
      { numRuns: 200, ...seed },
    );
  });

  it("supports lengths beyond 32 bits", () => {
    // The CRC-32 of 2^33 zeros, combined from known halves: 2^20 zeros, doubled 13 times.
    let length = 2 ** 20;
    let zeros = crc32(new Uint8Array(length));
    for (; length < 2 ** 33; length *= 2) zeros = crc32Combine(zeros, zeros, length);
    const one = crc32(new Uint8Array([1]));
    const once = crc32Combine(one, zeros, 2 ** 33);
    let steps = one;
    const mebi = crc32(new Uint8Array(2 ** 20));
    for (let at = 0; at < 2 ** 33; at += 2 ** 20) steps = crc32Combine(steps, mebi, 2 ** 20);
    assert.equal(once, steps);
  });
});

describe("slots at a parent", () => {
  it("never exceed the limit, and every holder that wants one gets it in the end", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 5 }),
        fc.infiniteStream(fc.nat()),
        (limit, wants, choices) => {
          const slots = new ParentSlots(limit);
          let total = 0;
          const holders = wants.map((want) => {
            const holder = { left: want, held: 0, onSlot: (): void => take(holder) };
            return holder;
          });
          type Holder = SlotHolder & { left: number; held: number };
          function take(holder: Holder): void {
            while (holder.left > 0 && slots.take("p", holder)) {
              holder.left--;
              holder.held++;
              total++;
              assert.ok(total <= limit);
            }
          }
          for (const holder of holders) take(holder);
          while (total > 0) {
            const using = holders.filter(({ held }) => held > 0);
            const holder = using[(choices.next().value ?? 0) % using.length];
            assert.ok(holder);
            holder.held--;
            total--;
            slots.release("p", holder);
          }
          for (const { left } of holders) assert.equal(left, 0);
        },
      ),
      { numRuns: 200, ...seed },
    );
  });

  it("go to the holder with fewer, and one that leaves does not delay others", () => {
    const slots = new ParentSlots(2);
    const holder = (): SlotHolder => ({ onSlot: () => {} });
    const [a, b, c] = [holder(), holder(), holder()];
    assert.ok(slots.take("p", a) && slots.take("p", a));
    assert.equal(slots.take("p", b), false);
    slots.release("p", a);
    assert.equal(slots.take("p", a), false, "b holds none and has been called");
    assert.ok(slots.take("p", b));
    assert.equal(slots.take("p", c), false);
    slots.leave(c);
    slots.release("p", b);
    assert.ok(slots.take("p", a));
    assert.ok(slots.take("q", c), "another parent is another matter");
  });
});

describe("slots whose notified holder does not come back", () => {
  it("go to others when the next slot becomes free", () => {
    const slots = new ParentSlots(3);
    const holder = (): SlotHolder => ({ onSlot: () => {} });
    const [busy, paused] = [holder(), holder()];
    for (let slot = 0; slot < 3; slot++) assert.ok(slots.take("p", busy));
    assert.equal(slots.take("p", paused), false);
    slots.release("p", busy);
    assert.equal(slots.take("p", busy), false);
    slots.release("p", busy);
    assert.ok(slots.take("p", busy));
    assert.ok(slots.take("p", busy));
  });
});

describe("the throughput meter", () => {
  it("is steady for a steady stream, follows a change within five seconds, and is 0 after silence", () => {
    const meter = new ThroughputMeter(0);
    assert.equal(meter.rate(0), 0);
    let now = 0;
    const run = (seconds: number, bytes: number): void => {
      for (const end = now + seconds * 1000; now < end; now += 10) meter.add(bytes, now);
    };
    run(3, 10);
    assert.ok(Math.abs(meter.rate(now) - 1000) < 60, `${meter.rate(now)}`);
    run(6, 50);
    assert.ok(Math.abs(meter.rate(now) - 5000) < 300, `${meter.rate(now)}`);
    assert.equal(meter.rate(now + 6000), 0);
    meter.add(100, now + 1_000_000);
    assert.ok(meter.rate(now + 1_000_000) > 0);
  });
});

describe("the layout of a task", () => {
  const task = { taskId: "t", kind: "standard" } as const;

  it("is the same for a list of equal pieces and for the lengths", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 500 }),
        fc.integer({ min: 1, max: 100 }),
        fc.nat(),
        fc.nat(),
        (total, length, a, b) => {
          const start = a % (total + 1);
          const range = { start, end: start + (b % (total - start + 1)) };
          const even = TaskLayout.known(
            { ...task, range },
            { contentLength: total, pieceLength: length },
          );
          assert.ok(even);
          const pieces = Array.from({ length: even.pieceCount }, (_, number) => ({
            number,
            ...even.extent(number),
          }));
          const listed = TaskLayout.known({ ...task, range }, { pieces: pieces.toReversed() });
          assert.ok(listed);
          assert.deepEqual(
            [listed.first, listed.last, listed.longestPiece],
            [even.first, even.last, even.longestPiece],
          );
          let position = 0;
          for (let number = even.first; number <= even.last; number++) {
            const part = even.part(number);
            assert.deepEqual(listed.part(number), part);
            assert.equal(part?.position, position);
            position += part?.length ?? 0;
          }
          assert.equal(position, range.end - range.start);
        },
      ),
      { numRuns: 300, ...seed },
    );
  });

  it("accepts a million pieces, and blames more on the side that named them", () => {
    assert.equal(
      TaskLayout.known(task, { contentLength: 1_000_000, pieceLength: 1 })?.pieceCount,
      1_000_000,
    );
    const many = { contentLength: 1_000_001, pieceLength: 1 };
    assert.equal(
      assertThrows(() => TaskLayout.known(task, many), "InvalidArgument").kind,
      "misuse",
    );
    const announced = { ...many, pieceCount: 1_000_001 };
    assert.equal(
      assertThrows(() => TaskLayout.announced(task, announced), "LimitExceeded").kind,
      "peer",
    );
  });

  it("does the same for pieces longer than maxPieceLength", () => {
    const outline = { contentLength: 3000, pieceLength: 1001, pieceCount: 3 };
    const layouts = [
      [TaskLayout.known(task, outline), "InvalidArgument"],
      [
        TaskLayout.known(task, { pieces: [{ number: 0, offset: 0, length: 1001 }] }),
        "InvalidArgument",
      ],
      [TaskLayout.announced(task, outline), "LimitExceeded"],
    ] as const;
    for (const [layout, code] of layouts) {
      layout?.requirePieceLength(1001);
      assertThrows(() => layout?.requirePieceLength(1000), code);
    }
  });
});

describe("parents", () => {
  it("are each named once, with the address of their API if they are asked", () => {
    assert.deepEqual(
      parentsOf(["10.0.0.1:4005", { addr: "10.0.0.1:4005" }, { apiAddr: "[::1]:7" }], "same-host"),
      [
        { name: "10.0.0.1:4005", addr: "10.0.0.1:4005", apiAddr: "10.0.0.1:4000" },
        { name: "[::1]:7", addr: undefined, apiAddr: "[::1]:7" },
      ],
    );
    assert.equal(parentsOf(["[::1]:5"], "same-host")[0]?.apiAddr, "[::1]:4000");
    assert.equal(parentsOf(["a:5"], "same-address")[0]?.apiAddr, "a:5");
    assert.equal(parentsOf(["a:5"], "no")[0]?.apiAddr, undefined);
  });
});

describe("the memory of pieces", () => {
  it("is reused for the next piece after a piece was passed on", () => {
    const layout = TaskLayout.known(
      { taskId: "t", kind: "standard" },
      { contentLength: 1005, pieceLength: 10 },
    );
    assert.ok(layout);
    const buffers = new PieceBuffers(layout);
    const memory = new Set<ArrayBufferLike>();
    for (let number = 0; number <= 100; number++) {
      const part: SinkPart | undefined = layout.part(number);
      assert.ok(part);
      const bytes = new Uint8Array(part.length).fill(number);
      buffers.write(number, part.position, bytes);
      memory.add(buffers.get(number).buffer);
      assert.deepEqual(buffers.get(number), bytes);
      if (number > 0) buffers.delete(number - 1);
    }
    assert.equal(memory.size, 2);
  });
});

describe("the remaining time", () => {
  const plan = { contentLength: 1_000_000, pieceLength: 100_000 };
  const layout = TaskLayout.known({ taskId: "a1".repeat(32), kind: "standard" }, plan);
  const context = { routes: [], paused: false, patienceLeft: undefined };

  function timeLeft(stats: TransferStats, now: number, inFlightBytes: number): number | undefined {
    return stats.progress(now, layout, { ...context, inFlightBytes }).timeLeft;
  }

  it("is undefined before 1 % of the bytes, or 2 s of bytes", () => {
    const stats = new TransferStats(0);
    assert.equal(timeLeft(stats, 60_000, 0), undefined);
    // After a slow start, the estimate would be hours.
    stats.addBytes(1000, 60_000);
    assert.equal(timeLeft(stats, 60_001, 1000), undefined);
    assert.equal(timeLeft(stats, 61_999, 1000), undefined);
    const left = timeLeft(stats, 62_000, 1000);
    assert.ok(left !== undefined && left > 1_000_000, `${left} ms`);
    const fast = new TransferStats(0);
    fast.addBytes(9999, 1000);
    assert.equal(timeLeft(fast, 1000, 9999), undefined);
    fast.addBytes(1, 1000);
    assert.equal(timeLeft(fast, 1000, 10_000), 99_000);
    assert.equal(
      fast.progress(1000, undefined, { ...context, inFlightBytes: 0 }).timeLeft,
      undefined,
    );
  });

  it("is based on the bytes that an earlier download did not leave", () => {
    const stats = new TransferStats(0);
    for (let piece = 0; piece < 9; piece++) stats.addPiece(100_000, true);
    stats.addBytes(999, 1000);
    assert.equal(timeLeft(stats, 1000, 999), undefined);
    stats.addBytes(1, 1000);
    assert.equal(timeLeft(stats, 1000, 1000), 99_000);
  });

  it("is undefined while nothing arrives, and 0 at the end", () => {
    const stats = new TransferStats(0);
    stats.addBytes(500_000, 1000);
    assert.equal(timeLeft(stats, 60_000, 500_000), undefined);
    for (let piece = 0; piece < 10; piece++) stats.addPiece(100_000, false);
    assert.equal(timeLeft(stats, 60_000, 0), 0);
  });
});

describe("concurrent writes of one piece by two attempts", () => {
  it("write nothing of the loser after the winner's end", async () => {
    const bytes = new Uint8Array(10);
    const session = {
      write: async (_number: number, position: number, chunk: Uint8Array) =>
        bytes.set(chunk, position),
    } as unknown as SinkSession;
    const write = new PieceWrite(session, { number: 0, position: 0, length: 10 });
    const [winner, loser] = [write.begin(), write.begin()];
    await winner.write(new Uint8Array(10).fill(1));
    await loser.write(new Uint8Array(5).fill(2));
    await winner.finish();
    winner.end();
    // The loser held these bytes when it lost.
    await loser.write(new Uint8Array(5).fill(2));
    loser.end();
    assert.deepEqual(bytes, new Uint8Array(10).fill(1));
  });
});

describe("pieces of an earlier download", () => {
  it("are listed once each, the oldest, the newest and a middle one first; a piece fetched again counts as new", () => {
    const layout = TaskLayout.known(
      { taskId: "a1".repeat(32), kind: "standard" },
      { contentLength: 100, pieceLength: 10 },
    );
    assert.ok(layout !== undefined);
    const found = [1, 8, 2, 77, 5, 1, 3].map((number, at) => ({
      number,
      digest: `crc32:${at}`,
      crc32: at,
    }));
    const session = { resumed: found } as unknown as SinkSession;
    assert.deepEqual(
      resumedPieces({ layout, session }).map(({ number, crc32 }) => [number, crc32]),
      [8, 3, 5, 2, 1].map((number) => [
        number,
        found.findLastIndex((piece) => piece.number === number),
      ]),
    );
  });
});

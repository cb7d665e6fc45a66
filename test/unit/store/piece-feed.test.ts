import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { digestOfHeader, reprDigestOf } from "../../../src/digest/repr-digest.ts";
import { VortexError } from "../../../src/errors.ts";
import type { PieceMetadata } from "../../../src/piece.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import { PieceFeed } from "../../../src/store/piece-feed.ts";
import { assertRejects, assertThrows } from "../../support/failures.ts";
import { settle } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";

const taskId = "ab".repeat(32);

function piece(number: number): PieceMetadata {
  const zeros = { parentId: "", trafficType: 0, costSeconds: 0n, createdAtSeconds: 0n };
  return { number, offset: BigInt(number * 10), length: 10n, digest: "crc32:0", ...zeros };
}

async function numbers(pieces: AsyncIterable<PieceMetadata>): Promise<number[]> {
  const list: number[] = [];
  for await (const { number } of pieces) list.push(number);
  return list;
}

describe("PieceFeed", () => {
  it("yields each watcher the present pieces by number, then further ones as they arrive, each once", async () => {
    const feed = new PieceFeed(taskId);
    const { signal } = new AbortController();
    const early = numbers(feed.watch({ signal }));
    for (const number of [4, 1, 3]) feed.add(piece(number));
    const late = feed.watch({ signal });
    assert.equal((await late.next()).value?.number, 1);
    // A piece that arrives while a watcher is still at the initial ones.
    feed.add(piece(0));
    await settle();
    feed.add(piece(2));
    const last = numbers(feed.watch({ signal }));
    await settle();
    feed.complete();
    assert.equal(feed.ended, true);
    assert.deepEqual(await early, [4, 1, 3, 0, 2]);
    assert.deepEqual(await numbers(late), [3, 4, 0, 2]);
    assert.deepEqual(await last, [0, 1, 2, 3, 4]);
    assert.deepEqual(await numbers(feed.watch({ signal })), [0, 1, 2, 3, 4]);
    assert.deepEqual(
      feed.pieces().map(({ number }) => number),
      [0, 1, 2, 3, 4],
    );
  });

  it("yields a piece that arrives during the initial ones neither twice nor out of order", async () => {
    const feed = new PieceFeed(taskId);
    const { signal } = new AbortController();
    const order = [50, 10, 30, 20, 40];
    for (const number of order) feed.add(piece(number));
    const watcher = feed.watch({ signal });
    const told: number[] = [];
    // One piece before, one between and one after those that are yielded.
    for (const coming of [15, 5, 35, 60, 45]) {
      told.push((await watcher.next()).value?.number ?? -1);
      feed.add(piece(coming));
    }
    feed.complete();
    assert.deepEqual(
      [...told, ...(await numbers(watcher))],
      [10, 20, 30, 40, 50, 15, 5, 35, 60, 45],
    );
  });

  it("fails its watchers after the present pieces, including watchers that start later", async () => {
    const feed = new PieceFeed(taskId);
    const { signal } = new AbortController();
    feed.add(piece(0));
    const watcher = feed.watch({ signal });
    await watcher.next();
    const waiting = assertRejects(watcher.next(), "StorageFailed");
    await settle();
    feed.fail(new VortexError("StorageFailed", "disk full"));
    await waiting;
    const later = feed.watch({ signal });
    assert.equal((await later.next()).value?.number, 0);
    await assertRejects(later.next(), "StorageFailed");
    assert.deepEqual([feed.ended, feed.failed], [false, true]);
    feed.add(piece(1));
    assert.equal(feed.pieces().length, 1);
  });

  it("ignores fail() once it is complete", async () => {
    const feed = new PieceFeed(taskId);
    feed.complete();
    feed.fail(new VortexError("StorageFailed", "disk full"));
    assert.deepEqual([feed.ended, feed.failed], [true, false]);
    assert.deepEqual(await numbers(feed.watch({ signal: new AbortController().signal })), []);
  });

  it("ends a watcher when its signal aborts", async () => {
    const feed = new PieceFeed(taskId);
    const controller = new AbortController();
    const waiting = assertRejects(feed.watch({ signal: controller.signal }).next(), "Aborted");
    await settle();
    controller.abort();
    await waiting;
    await assertRejects(feed.watch({ signal: AbortSignal.abort() }).next(), "Aborted");
  });
});

describe("a growing task of MemoryPieceStore", () => {
  const content = seededBytes(1, 25);

  it("serves its pieces as they are added, and is complete with the last", async () => {
    const store = new MemoryPieceStore();
    const growing = store.startTask(taskId, 25, { pieceLength: 10, kind: "persistent" });
    const { task } = growing;
    const watched = numbers(
      task.watch?.({ signal: new AbortController().signal }) ?? assert.fail("not watched"),
    );
    const get = (number: number) => store.getPiece({ taskId, number, kind: "persistent" });
    growing.putPiece(2, content.subarray(20));
    assert.equal(await get(0), undefined);
    assert.equal((await get(2))?.metadata.length, 5n);
    assert.equal((await store.getTask(taskId))?.complete, false);
    growing.putPiece(0, content.subarray(0, 10));
    growing.putPiece(1, content.subarray(10, 20));
    assert.equal((await store.getTask(taskId))?.complete, true);
    assert.deepEqual(await watched, [2, 0, 1]);
  });

  it("rejects pieces of a wrong number or length, and pieces that are present", () => {
    const growing = new MemoryPieceStore().startTask(taskId, 25, { pieceLength: 10 });
    growing.putPiece(0, content.subarray(0, 10));
    assertThrows(() => growing.putPiece(0, content.subarray(0, 10)), "InvalidArgument");
    assertThrows(() => growing.putPiece(3, content.subarray(0, 10)), "InvalidArgument");
    assertThrows(() => growing.putPiece(2, content.subarray(0, 10)), "InvalidArgument");
  });

  it("is removed from the store by fail(), unless another task has replaced it", async () => {
    const store = new MemoryPieceStore();
    const first = store.startTask(taskId, 25, { pieceLength: 10 });
    const second = store.startTask(taskId, 25, { pieceLength: 10 });
    first.fail(new VortexError("Aborted", "given up"));
    assertThrows(() => first.putPiece(0, content.subarray(0, 10)), "Closed");
    assert.equal(await store.getTask(taskId), second.task);
    second.fail(new VortexError("Aborted", "given up"));
    assert.equal(await store.getTask(taskId), undefined);
  });
});

describe("Repr-Digest", () => {
  it("round-trips sha256 and sha512", () => {
    for (const algorithm of ["sha256", "sha512"] as const) {
      const digest = digestOf(algorithm, seededBytes(1, 99), portableHashers);
      const header = reprDigestOf(digest) ?? assert.fail("no header");
      assert.equal(digestOfHeader(header), digest);
      assert.equal(digestOfHeader(`md5=:AAAA:, ${header}`), digest);
    }
    assert.equal(reprDigestOf("crc32:1"), undefined);
  });

  it("matches the example of RFC 9530", () => {
    // RFC 9530, appendix B.1.
    const header = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    const digest = "sha256:44aff4ab2d7c3250525675a08f0cfa9591168cffe51791c5f5bbc417c15a6c38";
    assert.equal(digestOfHeader(header), digest);
    assert.equal(reprDigestOf(digest), header);
  });

  it("is ignored when malformed", () => {
    for (const header of [
      "",
      "sha-256",
      "sha-256=:AAAA:",
      "sha-256=AAAA",
      "sha-256=:=====:",
      "xsha-256=:AAAA:",
      "x".repeat(100_000),
    ]) {
      assert.equal(digestOfHeader(header), undefined);
    }
  });
});

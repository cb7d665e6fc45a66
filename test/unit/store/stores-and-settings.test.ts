import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { callTimeouts, downloaderSettings } from "../../../src/client/call/settings.ts";
import type { TransferOptions } from "../../../src/client/downloader.ts";
import {
  type ServerOptions,
  serverSettings,
  withTimeout,
} from "../../../src/server/admission/upload.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import { assertRejects, assertThrows } from "../../support/failures.ts";
import { FakeClock, fakeRuntime } from "../../support/fake-clock.ts";
import { crc32Of } from "../../support/hostile.ts";
import { joined, seededBytes } from "../../support/random.ts";

const taskId = "77".repeat(32);

describe("MemoryPieceStore", () => {
  const content = seededBytes(1, 1_000_000);

  async function pieceBytes(
    store: MemoryPieceStore,
    number: number,
    range?: { start: number; end?: number },
  ) {
    const piece = await store.getPiece({ taskId, number, kind: "cache" });
    assert.ok(piece !== undefined);
    const chunks: Uint8Array[] = [];
    for await (const chunk of piece.read(range)) chunks.push(chunk);
    return { metadata: piece.metadata, bytes: joined(chunks), chunks };
  }

  it("returns each piece with its offset, length and digest, in chunks of limited size", async () => {
    const store = new MemoryPieceStore();
    const task = store.putTask(taskId, content, {
      kind: "cache",
      pieceLength: 600_000,
      createdAtSeconds: 5n,
    });
    assert.deepEqual(
      [task.contentLength, task.pieceLength, task.kind, task.createdAtSeconds],
      [1_000_000, 600_000, "cache", 5n],
    );
    assert.deepEqual(await store.getTask(taskId), task);
    for (const [number, start, end] of [
      [0, 0, 600_000],
      [1, 600_000, 1_000_000],
    ] as const) {
      const { metadata, bytes, chunks } = await pieceBytes(store, number);
      assert.deepEqual(bytes, content.subarray(start, end));
      assert.ok(chunks.every(({ length }) => length > 0 && length <= 256 * 1024));
      assert.deepEqual(
        [metadata.number, metadata.offset, metadata.length, metadata.digest],
        [number, BigInt(start), BigInt(end - start), crc32Of(bytes)],
      );
    }
    assert.deepEqual(
      [...task.pieces()].map(({ number }) => number),
      [0, 1],
    );
  });

  it("reads a range of a piece, and no bytes beyond it", async () => {
    const store = new MemoryPieceStore();
    store.putTask(taskId, content, { kind: "cache", pieceLength: 600_000 });
    for (const [start, end] of [
      [0, 1],
      [100, 400_000],
      [399_999, 400_000],
      [5, 5],
    ] as const) {
      const { bytes } = await pieceBytes(store, 1, { start, end });
      assert.deepEqual(bytes, content.subarray(600_000 + start, 600_000 + end));
    }
    assert.deepEqual((await pieceBytes(store, 1, { start: 7 })).bytes, content.subarray(600_007));
    assert.deepEqual(
      (await pieceBytes(store, 1, { start: 0, end: 9_999_999 })).bytes,
      content.subarray(600_000),
    );
  });

  it("has no piece of another task, number or kind, nor of a deleted task", async () => {
    const store = new MemoryPieceStore();
    store.putTask(taskId, content);
    const piece = { taskId, number: 0, kind: "standard" } as const;
    assert.ok((await store.getPiece(piece)) !== undefined);
    assert.equal(await store.getPiece({ ...piece, taskId: "other" }), undefined);
    assert.equal(await store.getPiece({ ...piece, number: 1 }), undefined);
    assert.equal(await store.getPiece({ ...piece, kind: "cache" }), undefined);
    assert.equal(store.deleteTask(taskId), true);
    assert.equal(store.deleteTask(taskId), false);
    assert.equal(await store.getPiece(piece), undefined);
    assert.equal(await store.getTask(taskId), undefined);
  });

  it("an empty task has no piece, and putting a task again replaces it", async () => {
    const store = new MemoryPieceStore();
    store.putTask(taskId, new Uint8Array(0), { kind: "cache" });
    assert.equal(await store.getPiece({ taskId, number: 0, kind: "cache" }), undefined);
    store.putTask(taskId, content.subarray(0, 10), { kind: "cache" });
    assert.deepEqual((await pieceBytes(store, 0)).bytes, content.subarray(0, 10));
  });
});

describe("the downloader's settings", () => {
  it("default to those of stock peers", () => {
    const { runtime: _, ...settings } = downloaderSettings({}, fakeRuntime());
    assert.deepEqual(settings, {
      hostId: "vortex-peer",
      connectTimeout: 2000,
      pieceTimeout: 360_000,
      stallTimeout: 30_000,
      patience: 60_000,
      maxPieceLength: 64 * 1024 * 1024,
      maxMetadataLength: 64 * 1024,
      pool: {
        connectionsPerAddress: 1,
        capacity: 2000,
        idleTimeout: 420_000,
        cleanupInterval: 60_000,
      },
      concurrentPieceCount: 8,
      parentConcurrency: 32,
      rateLimit: undefined,
      earlyData: true,
      unverifiedPieces: "accept",
      telemetry: undefined,
    });
  });

  const wrong: [name: string, options: TransferOptions][] = [
    ["connectTimeout", { connectTimeout: 0 }],
    ["pieceTimeout", { pieceTimeout: -1 }],
    ["stallTimeout", { stallTimeout: Number.NaN }],
    ["maxPieceLength", { maxPieceLength: 0.5 }],
    ["maxMetadataLength", { maxMetadataLength: 63 }],
    ["concurrentPieceCount", { concurrentPieceCount: 1025 }],
    ["parentConcurrency", { parentConcurrency: 0 }],
    ["rateLimit", { rateLimit: 0 }],
    ["pool.capacity", { pool: { capacity: 0 } }],
    ["pool.idleTimeout", { pool: { idleTimeout: 0 } }],
    ["pool.cleanupInterval", { pool: { cleanupInterval: Number.POSITIVE_INFINITY } }],
  ];
  for (const [name, options] of wrong) {
    it(`${name} out of its range is InvalidArgument, and named`, () => {
      const error = assertThrows(
        () => downloaderSettings(options, fakeRuntime()),
        "InvalidArgument",
      );
      assert.ok(error.message.includes(name));
    });
  }

  it("timeouts of a call override those of the downloader", () => {
    const settings = downloaderSettings({ stallTimeout: 5 }, fakeRuntime());
    assert.deepEqual(callTimeouts({}, settings), {
      pieceTimeout: 360_000,
      stallTimeout: 5,
      unreadTimeout: 360_000,
    });
    assert.deepEqual(callTimeouts({ pieceTimeout: 1, stallTimeout: 2 }, settings), {
      pieceTimeout: 1,
      stallTimeout: 2,
      unreadTimeout: 1,
    });
  });
});

describe("the server's settings", () => {
  it("have defaults, and no rate limit", () => {
    const { maxConnections, maxStreams, requestTimeout, stallTimeout, limiter, onError } =
      serverSettings({}, fakeRuntime());
    assert.deepEqual(
      [maxConnections, maxStreams, requestTimeout, stallTimeout],
      [1024, 128, 10_000, 30_000],
    );
    assert.equal(limiter, undefined);
    assert.equal(typeof onError, "function");
  });

  const wrong: [name: string, options: ServerOptions][] = [
    ["maxConnections", { maxConnections: 0 }],
    ["maxStreams", { maxStreams: 1.5 }],
    ["requestTimeout", { requestTimeout: -1 }],
    ["stallTimeout", { stallTimeout: Number.POSITIVE_INFINITY }],
    ["uploadRateLimit", { uploadRateLimit: 0 }],
  ];
  for (const [name, options] of wrong) {
    it(`${name} out of its range is InvalidArgument, and named`, () => {
      const error = assertThrows(() => serverSettings(options, fakeRuntime()), "InvalidArgument");
      assert.ok(error.message.includes(name));
    });
  }
});

describe("withTimeout", () => {
  it("settles as the promise does if that is in time, and leaves no timer", async () => {
    const clock = new FakeClock();
    assert.equal(await withTimeout(clock, 100, Promise.resolve(7), "Stalled", "waiting"), 7);
    await assert.rejects(
      withTimeout(clock, 100, Promise.reject(new TypeError("oops")), "Stalled", "waiting"),
      TypeError,
    );
    assert.equal(clock.pending, 0);
  });

  it("rejects after the timeout, and ignores a later outcome", async () => {
    const clock = new FakeClock();
    let fail: (error: Error) => void = () => {};
    const owed = new Promise<never>((_resolve, reject) => {
      fail = reject;
    });
    const waiting = withTimeout(clock, 100, owed, "Stalled", "waiting for it");
    waiting.catch(() => {});
    assert.equal(await clock.advanceUntil(waiting, 1000, 1), 100);
    const error = await assertRejects(waiting, "Stalled");
    assert.ok(error.message.includes("waiting for it"));
    fail(new Error("too late"));
    await clock.advance(1);
    assert.equal(clock.pending, 0);
  });
});

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { QuicDownloader } from "../../../src/client/vortex/downloader.ts";
import { VortexError } from "../../../src/errors.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { type ContentSource, contentStore } from "../../../src/store/content-store.ts";
import { type RandomAccess, randomAccessSink } from "../../../src/task/random-access-sink.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import { assertRejects, assertThrows } from "../../support/failures.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { FakeParents, fetcherOf, honest, taskSettings } from "../../support/task-parents.ts";

const PIECE = 1000;
const content = Uint8Array.from({ length: 5500 }, (_, at) => (at * 31) & 0xff);
const taskId = "ab".repeat(32);

describe("a random-access sink", () => {
  function storage(): { access: RandomAccess; ends: unknown[]; bytes: Uint8Array } {
    const bytes = new Uint8Array(content.length);
    const ends: unknown[] = [];
    const access: RandomAccess = {
      write: async (position, chunk) => bytes.set(chunk, position),
      read: async (position, length) => bytes.subarray(position, position + length),
      close: async () => void ends.push("closed"),
      abort: async (error) => void ends.push(error),
    };
    return { access, ends, bytes };
  }
  const fetching = () =>
    fetcherOf(
      new FakeParents(content, PIECE, { "a:1": honest() }),
      ["a:1"],
      taskSettings({}, fakeRuntime()),
    );

  it("receives the content, serves it, and is closed at the end", async () => {
    const { access, ends, bytes } = storage();
    const { fetcher, request } = fetching();
    const download = fetcher.downloadTask({ ...request, to: randomAccessSink(access) });
    await download;
    assert.equal(Buffer.compare(bytes, content), 0);
    assert.deepEqual(ends, ["closed"]);
    const piece = await download.store.getPiece({
      taskId: request.taskId,
      number: 5,
      kind: "standard",
    });
    const chunks: Uint8Array[] = [];
    for await (const chunk of piece?.read() ?? []) chunks.push(chunk.slice());
    assert.equal(Buffer.compare(Buffer.concat(chunks), content.subarray(5 * PIECE)), 0);
  });

  for (const method of ["write", "read", "close"] as const) {
    it(`a failing ${method} fails the download with StorageFailed, and abort gets the error`, async () => {
      const { access, ends } = storage();
      const full = new Error("full");
      const failing = { ...access, [method]: () => Promise.reject(full) };
      const { fetcher, request } = fetching();
      const digest = `sha256:${"0".repeat(64)}`;
      const to = randomAccessSink(failing);
      const options = method === "read" ? { ...request, digest, to } : { ...request, to };
      const error = await assertRejects(fetcher.downloadTask(options), "StorageFailed");
      assert.equal(error.cause, full);
      assert.deepEqual(ends, [error]);
    });
  }

  it("is of one use, and needs write and read", async () => {
    const { access } = storage();
    const { fetcher, request } = fetching();
    const to = randomAccessSink(access);
    await fetcher.downloadTask({ ...request, to });
    await assertRejects(fetcher.downloadTask({ ...request, to }), "InvalidArgument");
    assertThrows(
      () => randomAccessSink({ write: access.write } as RandomAccess),
      "InvalidArgument",
    );
  });
});

describe("a content store", () => {
  function store(changes: Partial<ContentSource> = {}): { source: ContentSource; reads: number[] } {
    const reads: number[] = [];
    const source: ContentSource = {
      stat: async (id) =>
        id === taskId ? { contentLength: content.length, pieceLength: PIECE } : undefined,
      async *read(_id, { start, end }) {
        reads.push(start);
        for (let at = start; at < end; at += 300)
          yield content.subarray(at, Math.min(at + 300, end));
      },
      ...changes,
    };
    return { source, reads };
  }

  it("serves pieces and ranges, and hashes each piece once", async () => {
    const { source, reads } = store();
    const transport = new MemoryTransport("quic");
    const at = { host: "peer", port: 4006 };
    await using server = await VortexServer.listen(
      transport,
      at,
      contentStore(source),
      portableRuntime,
    );
    await using downloader = new QuicDownloader(
      async () => transport,
      downloaderSettings({}, portableRuntime),
    );
    assert.equal(server.address.port, 4006);
    const request = { addr: "peer:4006", taskId, number: 5 };
    const piece = await downloader.downloadPiece(request);
    assert.equal(Buffer.compare(await piece.bytes(), content.subarray(5000)), 0);
    const part = await downloader.downloadPiece({ ...request, range: { start: 100, end: 450 } });
    assert.equal(Buffer.compare(await part.bytes(), content.subarray(5100, 5450)), 0);
    await assertRejects(downloader.downloadPiece({ ...request, number: 6 }), "NotFound");
    await assertRejects(
      downloader.downloadPiece({ ...request, taskId: "c".repeat(64) }),
      "NotFound",
    );
    // Once for the digest, and once for each response.
    assert.deepEqual(reads, [5000, 5000, 5000]);
  });

  it("lists all pieces, and hashes them again when the digest of the task changes", async () => {
    let digest = "sha256:1";
    const stat = async (): ReturnType<ContentSource["stat"]> => ({
      contentLength: 5500n,
      pieceLength: 1000n,
      digest,
      kind: "persistent-cache",
    });
    const { source, reads } = store({ stat });
    const pieces = contentStore(source);
    for (const count of [6, 6, 12]) {
      if (count === 12) digest = "sha256:2";
      const task = await pieces.getTask(taskId);
      assert.deepEqual(
        [...(task?.pieces() ?? [])].map(({ number }) => number),
        [0, 1, 2, 3, 4, 5],
      );
      assert.deepEqual(
        [task?.kind, task?.digest, reads.length],
        ["persistent-cache", digest, count],
      );
    }
    assert.equal(await pieces.getPiece({ taskId, number: 0, kind: "standard" }), undefined);
  });

  it("a source that reads too few bytes, or fails, rejects, and is asked again", async () => {
    const { source } = store({ async *read() {} });
    const request = { taskId, number: 0, kind: "standard" } as const;
    await assertRejects(
      contentStore(source).getPiece(request) as Promise<unknown>,
      "StorageFailed",
    );
    let down = true;
    const usual = store().source;
    const flaky = contentStore({
      ...usual,
      read(...args) {
        if (down) throw new VortexError("Internal", "down");
        return usual.read(...args);
      },
    });
    await assertRejects(flaky.getPiece(request) as Promise<unknown>, "Internal");
    down = false;
    assert.equal((await flaky.getPiece(request))?.metadata.length, 1000n);
  });

  it("needs stat and read", () => {
    assertThrows(() => contentStore({} as ContentSource), "InvalidArgument");
  });
});

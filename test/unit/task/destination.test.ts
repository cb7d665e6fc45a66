import assert from "node:assert/strict";
import { createWriteStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough, Writable } from "node:stream";
import { describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { fileSink } from "../../../adapters/files/sink.ts";
import { VortexError } from "../../../src/errors.ts";
import type { TaskDirectory } from "../../../src/task/discovery.ts";
import { TaskFetcher } from "../../../src/task/fetcher.ts";
import { memorySink } from "../../../src/task/memory-sink.ts";
import type {
  TaskDownload,
  TaskDownloadOptions,
  TaskStreamOptions,
} from "../../../src/task/task.ts";
import { assertRejects, assertThrows, rejectionOf } from "../../support/failures.ts";
import { fakeRuntime, settle } from "../../support/fake-clock.ts";
import { inTempDir } from "../../support/samples.ts";
import {
  FakeParents,
  fetcherOf,
  honest,
  taskId,
  taskSettings,
} from "../../support/task-parents.ts";

const PIECE = 1000;
const content = Uint8Array.from({ length: 5500 }, (_, at) => (at * 31) & 0xff);

function fetching(): { fetcher: TaskFetcher; request: TaskStreamOptions } {
  const parents = new FakeParents(content, PIECE, { "a:1": honest() });
  return fetcherOf(parents, ["a:1"], taskSettings({}, fakeRuntime()));
}

/** Stream that collects its chunks. `write` runs before each chunk is stored. */
function collector(write: (at: number) => Promise<void> | void = () => {}): {
  stream: WritableStream<Uint8Array>;
  chunks: Uint8Array[];
  ends: unknown[];
} {
  const chunks: Uint8Array[] = [];
  const ends: unknown[] = [];
  const stream = new WritableStream<Uint8Array>({
    async write(chunk) {
      await write(chunks.length);
      chunks.push(chunk);
    },
    close: () => void ends.push("closed"),
    abort: (reason) => void ends.push(reason),
  });
  return { stream, chunks, ends };
}

describe("destination of a download", () => {
  it("a WritableStream receives the content in order, and is closed before the promise resolves", async () => {
    const { fetcher, request } = fetching();
    const { stream, chunks, ends } = collector();
    const report = await fetcher.downloadTask({ ...request, to: stream });
    assert.equal(report.bytes, content.length);
    assert.deepEqual(ends, ["closed"]);
    assert.equal(Buffer.compare(Buffer.concat(chunks), content), 0);
  });

  it("a failed write fails the download with StorageFailed, whose cause is the error", async () => {
    const { fetcher, request } = fetching();
    const full = new Error("disk full");
    const { stream } = collector(() => Promise.reject(full));
    const error = await assertRejects(
      fetcher.downloadTask({ ...request, to: stream }),
      "StorageFailed",
    );
    assert.equal(error.cause, full);
  });

  it("a failed download aborts the stream with its error", async () => {
    const parents = new FakeParents(content, PIECE, { "a:1": () => honest()({} as never) });
    const { fetcher, request } = fetcherOf(parents, ["a:1"], taskSettings({}, fakeRuntime()));
    const { stream, ends } = collector();
    const signal = AbortSignal.abort("enough");
    const error = await assertRejects(
      fetcher.downloadTask({ ...request, to: stream, signal }),
      "Aborted",
    );
    await settle();
    assert.equal(error.cause, "enough");
    assert.deepEqual(
      ends.filter((end) => end === "closed"),
      [],
    );
  });

  it("an abort ends a download whose stream accepts no more data", async () => {
    const { fetcher, request } = fetching();
    const { stream } = collector(() => new Promise(() => {}));
    const controller = new AbortController();
    const download = fetcher.downloadTask({ ...request, to: stream, signal: controller.signal });
    for (let turn = 0; turn < 20; turn++) await settle();
    controller.abort();
    await assertRejects(download, "Aborted");
  });

  it("a download that fails before it opens its sink aborts the stream with its error", async () => {
    const directory: TaskDirectory = {
      stat: () => Promise.reject(new VortexError("NotFound", "no such task")),
      async *sync() {},
    };
    const cases: Record<
      string,
      (to: WritableStream<Uint8Array<ArrayBuffer>>) => Promise<unknown> | TaskDownload
    > = {
      "an unknown option": (to) => {
        const { fetcher, request } = fetching();
        return fetcher.downloadTask({ ...request, to, retries: 3 } as TaskDownloadOptions);
      },
      "an option out of range": (to) => {
        const { fetcher, request } = fetching();
        return fetcher.downloadTask({ ...request, to, range: { start: 9_999 } });
      },
      "a closed fetcher": async (to) => {
        const { fetcher, request } = fetching();
        await fetcher.close();
        await fetcher.downloadTask({ ...request, to });
      },
      "an aborted signal": (to) => {
        const { fetcher, request } = fetching();
        return fetcher.downloadTask({ ...request, to, signal: AbortSignal.abort() });
      },
      "a piece above maxPieceLength": (to) => {
        const parents = new FakeParents(content, PIECE, { "a:1": honest() });
        const settings = taskSettings({ maxPieceLength: PIECE - 1 }, fakeRuntime());
        const { fetcher, request } = fetcherOf(parents, ["a:1"], settings);
        return fetcher.downloadTask({ ...request, to });
      },
      "unreachable parents": async (to) => {
        const runtime = fakeRuntime();
        const parents = new FakeParents(content, PIECE, {}, { directory });
        const fetcher = new TaskFetcher(parents, taskSettings({ patience: 0 }, runtime));
        const download = fetcher.downloadTask({ taskId, parents: [{ apiAddr: "a:4000" }], to });
        await runtime.clock.advanceUntil(download, 3_600_000);
        await download;
      },
    };
    for (const [what, download] of Object.entries(cases)) {
      const { readable, writable } = new TransformStream<Uint8Array<ArrayBuffer>>();
      const reading = rejectionOf(new Response(readable).arrayBuffer());
      const error = await rejectionOf(Promise.resolve(download(writable)));
      assert.equal(await reading, error, what);
    }
  });

  it("a download locks its stream at once, so that nothing else can lock it", async () => {
    const { fetcher, request } = fetching();
    const { stream } = collector();
    const download = fetcher.downloadTask({ ...request, to: stream });
    assert.throws(() => stream.getWriter(), TypeError);
    assert.equal((await download).bytes, content.length);
    assert.equal(stream.locked, false);
  });

  it("a stream that cannot be piped to, has failed or is closed fails the download", async () => {
    const broken = new Error("broken");
    const failed = new WritableStream<Uint8Array<ArrayBuffer>>({
      start: (controller) => controller.error(broken),
    });
    const closed = new WritableStream<Uint8Array<ArrayBuffer>>();
    await closed.close();
    const foreign = { locked: false, getWriter() {} } as never;
    for (const to of [failed, closed, foreign]) {
      // More than the sink accepts ahead of its reader.
      const parents = new FakeParents(new Uint8Array(40 << 20), 4 << 20, {
        "a:1": honest(1 << 20),
      });
      const { fetcher, request } = fetcherOf(parents, ["a:1"], taskSettings({}, fakeRuntime()));
      await assertRejects(fetcher.downloadTask({ ...request, to }), "StorageFailed");
    }
  });

  it("a Node.js stream is rejected with the name of the function that converts it", async () => {
    const { fetcher, request } = fetching();
    await inTempDir(async (dir) => {
      const file = createWriteStream(join(dir, "file"));
      for (const stream of [new PassThrough(), file]) {
        const to = stream as never;
        const error = await assertRejects(
          fetcher.downloadTask({ ...request, to }),
          "InvalidArgument",
        );
        assert.match(error.message, /Writable\.toWeb/);
      }
      const to = Writable.toWeb(file) as WritableStream<Uint8Array<ArrayBuffer>>;
      await fetcher.downloadTask({ ...request, to });
      assert.equal(Buffer.compare(await readFile(join(dir, "file")), content), 0);
    });
  });

  it("a locked stream, and values of other types, are rejected as InvalidArgument", async () => {
    const { fetcher, request } = fetching();
    const { stream } = collector();
    stream.getWriter();
    for (const to of [stream, undefined, null, 7, {}, { open: true }]) {
      const options = { ...request, to } as Parameters<typeof fetcher.downloadTask>[0];
      await assertRejects(fetcher.downloadTask(options), "InvalidArgument");
    }
  });

  it("a path without files in the runtime is rejected as Unavailable", async () => {
    const { fetcher, request } = fetching();
    await assertRejects(fetcher.downloadTask({ ...request, to: "file" }), "Unavailable");
  });

  it("a path and a file: URL name a file; another URL is rejected as InvalidArgument", () =>
    inTempDir(async (dir) => {
      const parents = new FakeParents(content, PIECE, { "a:1": honest() });
      const { request } = fetcherOf(parents, ["a:1"]);
      const fetcher = new TaskFetcher(parents, taskSettings({}, fakeRuntime()), fileSink);
      for (const to of [join(dir, "one"), pathToFileURL(join(dir, "two"))]) {
        await fetcher.downloadTask({ ...request, to });
        assert.equal(Buffer.compare(await readFile(to), content), 0);
      }
      for (const url of ["https://example.com/file", "file://host.invalid/x", "file:///a%2Fb"]) {
        const to = new URL(url);
        await assertRejects(fetcher.downloadTask({ ...request, to }), "InvalidArgument");
        assertThrows(() => fileSink(to), "InvalidArgument");
      }
    }));
});

describe("a download as a promise", () => {
  it("is a Promise of the report with methods, also if its options are invalid", async () => {
    const { fetcher, request } = fetching();
    const download = fetcher.downloadTask({ ...request, to: memorySink() });
    assert.ok(download instanceof Promise);
    download.pause();
    assert.equal(download.progress().paused, true);
    download.resume();
    assert.equal((await download).bytes, content.length);
    const invalid = fetcher.downloadTask({ ...request, parents: [], to: memorySink() });
    assert.equal(invalid.progress().bytes, 0);
    invalid.pause();
    invalid.resume();
    assert.equal(await invalid.store.getTask(request.taskId), undefined);
    await assertRejects(invalid, "InvalidArgument");
  });
});

describe("a stream of a task", () => {
  it("has the lengths before the content is read", async () => {
    const { fetcher, request } = fetching();
    const range = { start: 1500, end: 4000 };
    const stream = fetcher.streamTask({ ...request, range });
    const { contentLength, start, length, digest } = await stream.layout;
    assert.deepEqual(
      [contentLength, start, length, digest],
      [content.length, 1500, 2500, undefined],
    );
    assert.equal(Buffer.compare(await stream.bytes(), content.subarray(1500, 4000)), 0);
    assert.equal((await stream.report).bytes, 2500);
  });

  it("bytes is rejected as InvalidArgument if the content has another reader", async () => {
    const { fetcher, request } = fetching();
    const stream = fetcher.streamTask(request);
    const [first, second] = await Promise.allSettled([stream.bytes(), stream.bytes()]);
    assert.equal(first.status, "fulfilled");
    assert.equal(second.status === "rejected" && second.reason.code, "InvalidArgument");
    await assertRejects(stream.bytes(), "InvalidArgument");
  });

  it("close ends it with Aborted, and does nothing after its end", async () => {
    const { fetcher, request } = fetching();
    const stream = fetcher.streamTask(request);
    await stream.layout;
    await stream.close();
    await assertRejects(stream.report, "Aborted");
    await assertRejects(stream.bytes(), "Aborted");
    const other = fetcher.streamTask(request);
    await other.bytes();
    await other.close();
    assert.equal((await other.report).bytes, content.length);
  });

  it("fails its content, layout and report if its options are invalid or the fetcher is closed", async () => {
    const { fetcher, request } = fetching();
    const invalid = fetcher.streamTask({ ...request, parents: [] });
    for (const promise of [invalid.report, invalid.layout, invalid.bytes()])
      await assertRejects(promise, "InvalidArgument");
    await invalid.close();
    await fetcher.close();
    await assertRejects(fetcher.streamTask(request).report, "Closed");
  });
});

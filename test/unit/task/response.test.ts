import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { requestedRange, taskResponse } from "../../../src/task/response.ts";
import type { TaskStream, TaskStreamOptions } from "../../../src/task/task.ts";
import { assertRejects, assertThrows } from "../../support/failures.ts";
import { seededBytes } from "../../support/random.ts";
import { FakeParents, fetcherOf, honest } from "../../support/task-parents.ts";

const content = seededBytes(3, 10_000);
const digest = digestOf("sha256", content, portableHashers);

function streamOf(options: Partial<TaskStreamOptions> = {}, whole = content): TaskStream {
  const { fetcher, request } = fetcherOf(new FakeParents(whole, 4096, { "a:1": honest() }), [
    "a:1",
  ]);
  return fetcher.streamTask({ ...request, ...options });
}

async function bodyOf(response: Response): Promise<Uint8Array> {
  return new Uint8Array(await response.arrayBuffer());
}

describe("taskResponse", () => {
  it("returns the whole content with status 200, its length and its digest", async () => {
    const response = await taskResponse(streamOf({ digest }));
    assert.equal(response.status, 200);
    assert.deepEqual(Object.fromEntries(response.headers), {
      "accept-ranges": "bytes",
      "content-length": "10000",
      "content-type": "application/octet-stream",
      etag: `"${digest}"`,
    });
    assert.deepEqual(await bodyOf(response), content);
  });

  it("returns a part with status 206, and without ETag if no digest is known", async () => {
    const response = await taskResponse(streamOf({ range: { start: 4000, end: 4200 } }));
    assert.equal(response.status, 206);
    assert.equal(response.headers.get("content-range"), "bytes 4000-4199/10000");
    assert.equal(response.headers.get("content-length"), "200");
    assert.equal(response.headers.get("etag"), null);
    assert.deepEqual(await bodyOf(response), content.subarray(4000, 4200));
  });

  it("returns 206 for a range that is the whole content only with `partial`", async () => {
    const range = { start: 0, end: 10_000 };
    const partial = await taskResponse(streamOf({ range }), { partial: true });
    assert.equal(partial.status, 206);
    assert.equal(partial.headers.get("content-range"), "bytes 0-9999/10000");
    assert.deepEqual(await bodyOf(partial), content);
    const whole = await taskResponse(streamOf({ range }));
    assert.equal(whole.status, 200);
    assert.equal(whole.headers.get("content-range"), null);
    await whole.body?.cancel();
  });

  it("keeps headers of the caller and does not change the object", async () => {
    const headers = new Headers({ "content-type": "text/plain", etag: '"v1"', "x-a": "b" });
    const response = await taskResponse(streamOf({ digest }), { headers });
    assert.equal(response.headers.get("content-type"), "text/plain");
    assert.equal(response.headers.get("etag"), '"v1"');
    assert.equal(response.headers.get("x-a"), "b");
    assert.equal(headers.get("content-length"), null);
    await response.body?.cancel();
  });

  it("answers HEAD without content and ends the download", async () => {
    const stream = streamOf({ digest });
    const response = await taskResponse(stream, { method: "HEAD" });
    assert.equal(response.headers.get("content-length"), "10000");
    assert.equal(response.body, null);
    await assertRejects(stream.report, "Aborted");
  });

  it("answers with empty content and completes the download", async () => {
    const stream = streamOf({}, new Uint8Array());
    const response = await taskResponse(stream, { partial: true });
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("content-length"), "0");
    assert.equal((await bodyOf(response)).length, 0);
    assert.equal((await stream.report).bytes, 0);
  });

  it("cancels the download when the body is cancelled", async () => {
    const stream = streamOf();
    const response = await taskResponse(stream);
    await response.body?.cancel();
    await assertRejects(stream.report, "Aborted");
  });

  it("rejects like the layout, and for invalid arguments", async () => {
    await assertRejects(taskResponse(streamOf({ taskId: "" })), "InvalidArgument");
    const signal = AbortSignal.abort();
    await assertRejects(taskResponse(streamOf({ signal })), "Aborted");
    await assertRejects(taskResponse({} as TaskStream), "InvalidArgument");
    const stream = streamOf();
    await assertRejects(taskResponse(stream, { method: 1 as never }), "InvalidArgument");
    await stream.close();
  });
});

describe("taskResponse of a part", () => {
  it("has the digest of the task as ETag, also with status 206", async () => {
    const range = { start: 5, end: 9 };
    const response = await taskResponse(streamOf({ range }), { digest });
    assert.deepEqual([response.status, response.headers.get("etag")], [206, `"${digest}"`]);
    await response.body?.cancel();
  });

  it("accepts headers as an object and as pairs", async () => {
    for (const headers of [{ "x-a": "b" }, [["x-a", "b"]] as const]) {
      const response = await taskResponse(streamOf(), { headers });
      assert.equal(response.headers.get("x-a"), "b");
      await response.body?.cancel();
    }
  });

  it("closes the stream if its options are invalid", async () => {
    for (const init of [{ headers: { "in valid": "x" } }, { headers: 7 }, { digests: "x" }, 5]) {
      const stream = streamOf();
      await assertRejects(taskResponse(stream, init as never), "InvalidArgument");
      await assertRejects(stream.report, "Aborted");
    }
  });

  it("rejects a stream whose content has a reader, and leaves it open", async () => {
    const stream = streamOf();
    const content = stream.bytes();
    await assertRejects(taskResponse(stream), "InvalidArgument");
    assert.equal((await content).length, 10_000);
    const foreign = { bytes() {}, close() {} } as never;
    await assertRejects(taskResponse(foreign), "InvalidArgument");
  });
});

describe("requestedRange", () => {
  const cases: readonly [string, ReturnType<typeof requestedRange>][] = [
    ["bytes=0-0", { start: 0, end: 1 }],
    ["bytes=5-", { start: 5, end: 100 }],
    ["bytes=99-99999999999999999999", { start: 99, end: 100 }],
    ["BYTES= 1-2", { start: 1, end: 3 }],
    ["bytes=-10", { start: 90, end: 100 }],
    ["bytes=-999", { start: 0, end: 100 }],
    ["bytes=-0", "unsatisfiable"],
    ["bytes=100-", "unsatisfiable"],
    ["bytes=99999999999999999999-", "unsatisfiable"],
    ["bytes=9-5", undefined],
    ["bytes=9007199254740993-9007199254740992", undefined],
    ["bytes=9007199254740992-9007199254740993", "unsatisfiable"],
    ["bytes=-", undefined],
    ["bytes=0-1,5-9", undefined],
    ["items=0-1", undefined],
    ["bytes=a-b", undefined],
  ];
  for (const [range, expected] of cases)
    it(`parses ${range}`, () =>
      assert.deepEqual(requestedRange(new Headers({ range }), 100), expected));

  it("returns undefined without Range, and for a suffix of empty content", () => {
    assert.equal(requestedRange(new Headers(), 100), undefined);
    assert.equal(requestedRange(new Headers({ range: "bytes=-5" }), 0n), undefined);
    assert.equal(requestedRange(new Headers({ range: "bytes=0-" }), 0), "unsatisfiable");
  });

  it("applies If-Range only if it is the same strong tag", () => {
    const parsed = (condition: string, etag?: string) =>
      requestedRange(new Headers({ range: "bytes=1-2", "if-range": condition }), 100, etag);
    assert.deepEqual(parsed('"a"', '"a"'), { start: 1, end: 3 });
    assert.equal(parsed('"b"', '"a"'), undefined);
    assert.equal(parsed('"a"'), undefined);
    assert.equal(parsed('W/"a"', 'W/"a"'), undefined);
    assert.equal(parsed("Sat, 29 Oct 1994 19:43:31 GMT", '"a"'), undefined);
  });

  it("accepts a Request, and ignores the range of methods other than GET", () => {
    const request = (method: string) =>
      new Request("http://localhost/", { method, headers: { range: "bytes=1-2" } });
    assert.deepEqual(requestedRange(request("GET"), 100), { start: 1, end: 3 });
    assert.equal(requestedRange(request("HEAD"), 100), undefined);
  });

  it("accepts a request of node:http, whose headers are an object", () => {
    const headers = { range: "bytes=1-2", "if-range": '"a"', cookie: ["a"] };
    assert.deepEqual(requestedRange({ method: "GET", headers }, 100, '"a"'), { start: 1, end: 3 });
    assert.equal(requestedRange({ method: "GET", headers }, 100, '"b"'), undefined);
    assert.equal(requestedRange({ method: "GET", headers: {} }, 100), undefined);
    assert.equal(requestedRange({ method: "HEAD", headers }, 100, '"a"'), undefined);
  });

  it("throws InvalidArgument for invalid arguments", () => {
    for (const request of [{}, { range: "bytes=0-1" }, "bytes=0-1", { headers: null }, []])
      assertThrows(() => requestedRange(request as never, 1), "InvalidArgument");
    assertThrows(() => requestedRange(new Headers(), -1), "InvalidArgument");
    assertThrows(() => requestedRange(null as never, 1), "InvalidArgument");
    assertThrows(() => requestedRange(new Headers(), 1, 1 as never), "InvalidArgument");
  });
});

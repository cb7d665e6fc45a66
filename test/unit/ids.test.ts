import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import {
  defaultFilteredQueryParams,
  hostId,
  isBlobUrl,
  type ObjectIdentity,
  peerId,
  persistentCacheTaskId,
  persistentTaskId,
  taskIdOfBlob,
  taskIdOfContent,
  taskIdOfUrl,
  type UrlIdentity,
} from "../../src/ids.ts";
import { assertThrows } from "../support/failures.ts";

interface Vectors {
  readonly url: readonly (UrlIdentity & { readonly taskId?: string; readonly error?: string })[];
  readonly content: readonly { readonly content: string; readonly taskId: string }[];
  readonly blob: readonly { readonly url: string; readonly taskId?: string }[];
  readonly persistent: readonly (ObjectIdentity & { readonly taskId: string })[];
  readonly persistentCache: readonly {
    readonly content: string;
    readonly tag?: string;
    readonly application?: string;
    readonly pieceLength?: number;
    readonly taskId: string;
  }[];
}

const text = readFileSync(new URL("../vectors/ids.json", import.meta.url), "utf8");
const vectors: Vectors = JSON.parse(text);

describe("IDs equal those of stock Dragonfly", () => {
  it("for a task, by its URL", () => {
    assert.ok(vectors.url.length >= 50);
    for (const { taskId, error, ...identity } of vectors.url) {
      if (error !== undefined) {
        assertThrows(() => taskIdOfUrl(identity), "InvalidArgument");
        continue;
      }
      assert.equal(taskIdOfUrl(identity), taskId, JSON.stringify(identity));
      assert.equal(taskIdOfUrl(identity, nativeHashers), taskId, JSON.stringify(identity));
    }
  });

  it("for a task, by content", () => {
    for (const { content, taskId } of vectors.content)
      assert.equal(taskIdOfContent(content), taskId);
  });

  it("for a task, by the URL of an OCI blob", () => {
    for (const { url, taskId } of vectors.blob) {
      if (taskId === undefined) assertThrows(() => taskIdOfBlob(url), "InvalidArgument");
      else assert.equal(taskIdOfBlob(url), taskId);
    }
    assert.ok(isBlobUrl("https://r/v2/a/b/blobs/x?ns=docker.io"));
    assert.ok(!isBlobUrl("https://r/v2/a/manifests/sha256:x"));
  });

  it("for persistent tasks and persistent cache tasks", async () => {
    for (const { taskId, ...identity } of vectors.persistent)
      assert.equal(persistentTaskId(identity), taskId);
    for (const { content, taskId, ...identity } of vectors.persistentCache) {
      const bytes = new TextEncoder().encode(content);
      const chunks = [bytes.subarray(0, 3), bytes.subarray(3)];
      for (const hashers of [portableHashers, nativeHashers]) {
        assert.equal(await persistentCacheTaskId(chunks, identity, hashers), taskId);
      }
    }
  });

  it("for hosts, and for seed peers", () => {
    const host = { ip: "127.0.0.1", hostname: "localhost" };
    assert.equal(hostId(host), "127.0.0.1-localhost");
    assert.equal(hostId({ ...host, seed: true }), "127.0.0.1-localhost-seed");
  });

  it("for peers, new each time, with a version 4 UUID", () => {
    const host = { ip: "127.0.0.1", hostname: "localhost" };
    const uuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
    assert.match(peerId(host), new RegExp(`^127\\.0\\.0\\.1-localhost-${uuid}$`));
    assert.match(
      peerId({ ...host, seed: true }),
      new RegExp(`^127\\.0\\.0\\.1-localhost-${uuid}-seed$`),
    );
    assert.notEqual(peerId(host), peerId(host));
    assert.equal(
      peerId(host, (bytes) => bytes.fill(0xff)),
      "127.0.0.1-localhost-ffffffff-ffff-4fff-bfff-ffffffffffff",
    );
  });
});

describe("IDs", () => {
  it("exclude signatures with the default parameters", () => {
    const identity = (url: string) =>
      taskIdOfUrl({ url, filteredQueryParams: defaultFilteredQueryParams });
    assert.equal(
      identity("https://b.s3.amazonaws.com/k?X-Amz-Signature=1&versionId=2&X-Amz-Date=3"),
      identity("https://b.s3.amazonaws.com/k?versionId=2"),
    );
    assert.equal(new Set(defaultFilteredQueryParams).size, defaultFilteredQueryParams.length);
  });

  it("use the URL with ^ unchanged in the path, and encoded in the query", () => {
    const cases = [
      ["https://example.com/p?q=^", "https://example.com/p?q=%5E"],
      ["https://example.com/a^b?q=^&r=2", "https://example.com/a^b?q=%5E&r=2"],
      ["https://example.com/a^b?q=1#f^g", "https://example.com/a^b?q=1#f^g"],
      ["https://example.com/%5E^", "https://example.com/%5E^"],
      // The marker that replaces a caret while the URL is parsed.
      ["https://example.com/caret^caretx", "https://example.com/caret^caretx"],
      ["https://example.com/?q=^", "https://example.com/?q=%5E"],
    ] as const;
    for (const [url, normalised] of cases) {
      assert.equal(taskIdOfUrl({ url }), taskIdOfContent(`${normalised}STANDARD`), url);
    }
  });

  it("use the digest of a blob only if the whole URL is one line of that form", () => {
    for (const url of [
      "https://r/v2/a/b/blobs/x?a\nb",
      "\nhttps://r/v2/a/b/blobs/x",
      "https://r/v2/a\n/blobs/x",
    ]) {
      assert.equal(isBlobUrl(url), false, JSON.stringify(url));
    }
  });

  it("reject an invalid piece length", () => {
    for (const pieceLength of [-1, 0.5, Number.NaN, 2 ** 53]) {
      assertThrows(() => taskIdOfUrl({ url: "http://a", pieceLength }), "InvalidArgument");
    }
  });
});

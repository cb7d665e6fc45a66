import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { type HasherFactory, portableHashers } from "../../src/digest/hasher.ts";
import { VortexError } from "../../src/errors.ts";
import {
  defaultFilteredQueryParams,
  hostId,
  type IdVersion,
  idVersions,
  isBlobUrl,
  isManifestDigestUrl,
  type ObjectIdentity,
  peerId,
  persistentCacheTaskId,
  persistentTaskId,
  standardTaskId,
  taskIdOfBlob,
  taskIdOfContent,
  taskIdOfManifest,
  taskIdOfUrl,
  type UrlIdentity,
} from "../../src/ids.ts";
import { registryReference } from "../../src/registry-url.ts";
import { filteredUrl } from "../../src/task-url.ts";
import { assertThrows } from "../support/failures.ts";
import { type IdInput, type IdVector, idVectors, urlIdentityOf } from "../support/id-vectors.ts";
import { seededRandom } from "../support/random.ts";

/** IDs of dfdaemon 1.5.1. */
interface OldVectors {
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

const text = readFileSync(new URL("../vectors/ids-1.5.1.json", import.meta.url), "utf8");
const oldVectors: OldVectors = JSON.parse(text);

describe("IDs equal those of dfdaemon 1.5.10, and of 1.5.1 with idVersion 1.5.2", () => {
  it("for all inputs of the table", async () => {
    const seen: Record<string, number> = {};
    for (const { name, kind, input, ...ids } of idVectors) {
      seen[kind] = (seen[kind] ?? 0) + 1;
      for (const idVersion of [undefined, ...idVersions]) {
        const expected = idVersion === "1.5.2" ? ids.id_1_5_1 : ids.id;
        const got = await derived(kind, input, idVersion).catch((error: unknown) => {
          if (error instanceof VortexError && error.code === "InvalidArgument") return undefined;
          throw error;
        });
        assert.equal(got, expected ?? undefined, `${name} with ${idVersion}`);
      }
    }
    assert.deepEqual(seen, {
      url: 261,
      blob: 19,
      manifest: 21,
      persistent: 5,
      "persistent-cache": 9,
      content: 2,
      "persistent-cache-content": 3,
      host: 1,
    });
  });

  it("for the hashed text of each URL", () => {
    for (const { name, kind, input, canonical } of idVectors) {
      if (kind !== "url") continue;
      const { url, filteredQueryParams = [] } = urlIdentityOf(input);
      const text = () => filteredUrl(url, filteredQueryParams);
      if (canonical === undefined) assertThrows(text, "InvalidArgument");
      else assert.equal(text(), canonical, name);
    }
  });

  it("for a task, by its URL, before 1.5.3", () => {
    assert.ok(oldVectors.url.length >= 50);
    for (const { taskId, error, ...old } of oldVectors.url) {
      const identity = { ...old, idVersion: "1.5.2" } as const;
      if (error !== undefined) assertThrows(() => taskIdOfUrl(identity), "InvalidArgument");
      else assert.equal(taskIdOfUrl(identity), taskId, JSON.stringify(identity));
    }
  });

  it("for a task, by content", () => {
    for (const { content, taskId } of oldVectors.content)
      assert.equal(taskIdOfContent(content), taskId);
  });

  it("for a task, by the URL of an OCI blob, before 1.5.3", () => {
    for (const { url, taskId } of oldVectors.blob) {
      const id = () => taskIdOfBlob(url, { idVersion: "1.5.2" });
      if (taskId === undefined) assertThrows(id, "InvalidArgument");
      else assert.equal(id(), taskId);
    }
  });

  it("for persistent tasks and persistent cache tasks", async () => {
    for (const { taskId, ...identity } of oldVectors.persistent)
      assert.equal(persistentTaskId(identity), taskId);
    for (const { content, taskId, ...identity } of oldVectors.persistentCache) {
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

/** Derives the ID of a vector, with the portable and the native hash functions. */
async function derived(
  kind: IdVector["kind"],
  input: IdInput,
  idVersion: IdVersion | undefined,
): Promise<string> {
  const { url = "", region = "", endpoint = "", content = "", ip = "", hostname = "" } = input;
  const { tag, application, pieceLength, contentHex = "" } = input;
  const derive = async (hashers: HasherFactory): Promise<string> => {
    switch (kind) {
      case "url":
        return taskIdOfUrl(urlIdentityOf(input, idVersion), hashers);
      case "blob":
        return taskIdOfBlob(url, { idVersion });
      case "manifest":
        return taskIdOfManifest(url, { idVersion });
      case "persistent":
        return persistentTaskId({ url, region, endpoint }, hashers);
      case "persistent-cache": {
        const bytes = Uint8Array.from(Buffer.from(contentHex, "hex"));
        return persistentCacheTaskId([bytes], { tag, application, pieceLength }, hashers);
      }
      case "content":
      case "persistent-cache-content":
        return taskIdOfContent(content, hashers);
      case "host":
        return hostId({ ip, hostname });
    }
  };
  const id = await derive(portableHashers);
  assert.equal(await derive(nativeHashers), id);
  return id;
}

describe("IDs", () => {
  it("use the text, else the digest in the URL, else the URL", () => {
    const digest = "0".repeat(64);
    const blob = `https://r/v2/a/blobs/sha256:${digest}`;
    const manifest = `https://r/v2/a/manifests/sha256:${digest}`;
    const tagged = "https://r/v2/a/manifests/latest";
    const rest = { tag: "t", blobDigest: true } as const;
    assert.equal(standardTaskId({ url: blob, content: "c", ...rest }), taskIdOfContent("c"));
    assert.equal(standardTaskId({ url: blob, ...rest }), digest);
    assert.equal(standardTaskId({ url: manifest, ...rest }), digest);
    for (const [url, idVersion] of [
      [tagged, undefined],
      ["https://example.com/f", undefined],
      [manifest, "1.5.2"],
    ] as const) {
      assert.equal(
        standardTaskId({ url, idVersion, ...rest }),
        taskIdOfUrl({ url, idVersion, tag: "t" }),
      );
    }
    for (const url of [blob, manifest]) {
      const identity = { url, tag: "t", filteredQueryParams: ["ns"] };
      assert.equal(standardTaskId(identity), taskIdOfUrl(identity));
    }
    assertThrows(
      () => standardTaskId({ url: "https://r/v2/a/blobs/sha256:0", blobDigest: true }),
      "InvalidArgument",
    );
  });

  it("recognise the URLs of blobs, and of manifests with a digest", () => {
    assert.ok(isBlobUrl("https://r/v2/a/b/blobs/x?ns=docker.io"));
    assert.ok(!isBlobUrl("https://r/v2/a/manifests/sha256:x"));
    const manifest = "https://r/v2/a/b/manifests/crc32:7";
    assert.ok(isManifestDigestUrl(manifest));
    assert.ok(!isManifestDigestUrl("https://r/v2/a/b/manifests/latest"));
    assert.ok(!isManifestDigestUrl("https://r/v2/a/b/blobs/crc32:7"));
    assert.ok(!isManifestDigestUrl(manifest, { idVersion: "1.5.2" }));
  });

  it("find the reference in a registry URL like the regular expression of dfdaemon", () => {
    const random = seededRandom(7);
    const parts = ["://", "/v2/", "/blobs/", "/blobs/", "?", "\n", "a", "/", "\r", "v2/"];
    const found = { some: 0, none: 0 };
    for (let round = 0; round < 20_000; round++) {
      let url = "";
      for (let left = 3 + random() * 9; left > 0; left--)
        url += parts[Math.floor(random() * parts.length)];
      const [, reference] =
        /^[^\n]*:\/\/[^\n]*\/v2\/[^\n]*\/blobs\/([^?]+)(?:\?[^\n]*)?$/.exec(url) ?? [];
      assert.equal(registryReference(url, "/blobs/"), reference, JSON.stringify(url));
      found[reference === undefined ? "none" : "some"]++;
    }
    assert.ok(found.some > 500 && found.none > 500, JSON.stringify(found));
  });

  it("take linear time for hostile URLs", () => {
    // Quadratic or worse algorithms take minutes to years for these.
    const repeated = (text: string) => text.repeat(2_000_000 / text.length);
    for (const url of [
      repeated("://") + repeated("/v2/") + repeated("/blobs/?"),
      `${repeated("://")}/v2/${repeated("/blobs/?")}\n`,
      repeated("/v2/") + repeated("/blobs/"),
    ]) {
      assert.equal(isBlobUrl(url), false);
      assert.equal(isManifestDigestUrl(url), false);
    }
    const parameters = Array.from({ length: 100_000 }, (_, number) => `p${number}`);
    const url = `https://example.com/f?${parameters.join("&")}`;
    assert.equal(
      taskIdOfUrl({ url, filteredQueryParams: parameters }),
      taskIdOfContent("https://example.com/fSTANDARD"),
    );
    // The path is / and slashes follow, but not at the end.
    const slashes = `https://example.com/#${repeated("/")}x`;
    assert.equal(
      taskIdOfUrl({ url: slashes, idVersion: "1.5.2" }),
      taskIdOfContent(`${slashes}STANDARD`),
    );
    const caret = `https://example.com/^?caret0${repeated("0")}x`;
    assert.equal(
      taskIdOfUrl({ url: caret, idVersion: "1.5.2" }),
      taskIdOfContent(`${caret}=STANDARD`),
    );
  });

  it("do not depend on how often a URL with other than ASCII characters was parsed", () => {
    // URL.canParse of Node 20 rejects such a URL once it is optimised.
    const identity = { url: "http://bücher.example/", filteredQueryParams: ["ns"] };
    const id = taskIdOfContent("http://xn--bcher-kva.example/STANDARD");
    for (let round = 0; round < 20_000; round++) assert.equal(taskIdOfUrl(identity), id);
  });

  it("drop the path if the URL has no slash after the host, even after a backslash", () => {
    const cases = [
      ["https://example.com\\a/b?x=1", "https://example.com/a/b?x=1"],
      ["https://example.com\\a?x=1", "https://example.com?x=1"],
      ["mailto:a?b=http://c", "mailto:?b=http%3A%2F%2Fc"],
    ] as const;
    for (const [url, text] of cases) {
      assert.equal(filteredUrl(url, ["ns"]), text, url);
    }
  });

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
      ["https://example.com/caret0x^caret1x", "https://example.com/caret0x^caret1x"],
      ["https://example.com/?q=^", "https://example.com/?q=%5E"],
      ["https://example.com/car^", "https://example.com/car^"],
    ] as const;
    for (const [url, normalised] of cases) {
      const id = taskIdOfContent(`${normalised}STANDARD`);
      assert.equal(taskIdOfUrl({ url, filteredQueryParams: ["ns"] }), id, url);
      assert.equal(taskIdOfUrl({ url, idVersion: "1.5.2" }), id, url);
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

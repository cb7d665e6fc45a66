import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import { nativeHashers } from "../../../adapters/shared/native-hashers.ts";
import { digestOf, parseDigest } from "../../../src/digest/digest.ts";
import { crc32Hasher, type DigestAlgorithm, portableHashers } from "../../../src/digest/hasher.ts";
import { assertThrows } from "../../support/failures.ts";
import { chunked, seededBytes, seededRandom } from "../../support/random.ts";

function digest(algorithm: DigestAlgorithm, content: Uint8Array | string): string {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  return digestOf(algorithm, bytes, portableHashers);
}

describe("digests in Dragonfly's encoding", () => {
  const known: [algorithm: DigestAlgorithm, content: string, expected: string][] = [
    ["crc32", "123456789", "crc32:3421780262"],
    ["crc32", "", "crc32:0"],
    ["crc32", "a", "crc32:3904355907"],
    ["sha256", "", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    ["sha256", "abc", "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
    [
      "sha512",
      "abc",
      "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" +
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ],
  ];
  for (const [algorithm, content, expected] of known) {
    it(`${algorithm} of ${JSON.stringify(content)}`, () => {
      assert.equal(digest(algorithm, content), expected);
    });
  }

  it("a CRC-32 with its highest bit set is encoded as unsigned", () => {
    assert.match(digest("crc32", "123456789"), /^crc32:[0-9]+$/);
  });

  for (const algorithm of ["crc32", "sha256", "sha512"] as const) {
    it(`${algorithm} fed in chunks equals that of the whole, and encode() changes nothing`, () => {
      const content = seededBytes(1, 100_000);
      const whole = digest(algorithm, content);
      for (const greatest of [1000, 65_536]) {
        const hasher = portableHashers(algorithm);
        for (const chunk of chunked(content, seededRandom(2), greatest)) {
          hasher.update(chunk);
          hasher.encode();
        }
        hasher.update(new Uint8Array(0));
        assert.equal(`${algorithm}:${hasher.encode()}`, whole);
      }
    });
  }

  for (const algorithm of ["sha256", "sha512"] as const) {
    it(`${algorithm} of lengths around its block size equals that of node:crypto`, () => {
      for (const length of [0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 10_000]) {
        const content = seededBytes(length, length);
        assert.equal(
          digest(algorithm, content),
          `${algorithm}:${createHash(algorithm).update(content).digest("hex")}`,
        );
      }
    });
  }

  it("the native CRC-32 equals the portable one, for any length, alignment and chunking", () => {
    const content = seededBytes(3, 70_000);
    for (const [start, end] of [
      ...Array.from({ length: 100 }, (_, at) => [at % 9, at]),
      [1, 65_537],
      [0, 70_000],
    ]) {
      const part = content.subarray(start, end);
      const [native, portable] = [nativeHashers("crc32"), portableHashers("crc32")];
      for (const hasher of [native, portable]) {
        hasher.update(part.subarray(0, part.length / 3));
        hasher.update(part.subarray(part.length / 3));
      }
      assert.equal(native.encode(), portable.encode(), `${start} to ${end}`);
    }
  });

  it("two hashers are independent", () => {
    const [one, two] = [portableHashers("crc32"), portableHashers("crc32")];
    one.update(new TextEncoder().encode("123456789"));
    assert.deepEqual([one.encode(), two.encode()], ["3421780262", "0"]);
  });

  it("any incremental CRC-32 function makes a hasher", () => {
    const calls: [number, number][] = [];
    const hasher = crc32Hasher((chunk, value) => {
      calls.push([chunk.length, value]);
      return value + chunk.length;
    });
    hasher.update(new Uint8Array(3));
    hasher.update(new Uint8Array(4));
    assert.equal(hasher.encode(), "7");
    assert.deepEqual(calls, [
      [3, 0],
      [4, 3],
    ]);
  });
});

describe("parseDigest", () => {
  it("returns algorithm and value, SHA in lower case", () => {
    assert.deepEqual(parseDigest("crc32:4294967295"), {
      algorithm: "crc32",
      encoded: "4294967295",
    });
    assert.deepEqual(parseDigest("crc32:0"), { algorithm: "crc32", encoded: "0" });
    assert.deepEqual(parseDigest(`sha256:${"aB".repeat(32)}`), {
      algorithm: "sha256",
      encoded: "ab".repeat(32),
    });
    assert.deepEqual(parseDigest(`sha512:${"0F".repeat(64)}`), {
      algorithm: "sha512",
      encoded: "0f".repeat(64),
    });
  });

  const refused = [
    "",
    ":",
    "crc32",
    "crc32:",
    "crc32:00",
    "crc32:01",
    "crc32:-1",
    "crc32:+1",
    "crc32:1.0",
    "crc32:1e3",
    "crc32: 1",
    "crc32:1\n",
    "crc32:4294967296",
    "crc32:99999999999",
    "crc32:cbf43926",
    "CRC32:1",
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    "toString:1",
    "__proto__:1",
    "sha256:",
    `sha256:${"a".repeat(63)}`,
    `sha256:${"a".repeat(65)}`,
    `sha256:${"g".repeat(64)}`,
    `sha512:${"a".repeat(64)}`,
    ` sha256:${"a".repeat(64)}`,
  ];
  for (const text of refused) {
    it(`${JSON.stringify(text)} is rejected`, () => {
      assertThrows(() => parseDigest(text), "InvalidArgument");
    });
  }

  it("the message has the rejected digest, and the expected form", () => {
    for (const [text, expected] of [
      ["md5:00", "crc32:, sha256: or sha512:"],
      ["crc32:01", 'an unsigned 32-bit decimal number after "crc32:"'],
      ["sha256:aa", '64 hex digits after "sha256:"'],
      ["sha512:aa", '128 hex digits after "sha512:"'],
    ] as const) {
      const { message } = assertThrows(() => parseDigest(text), "InvalidArgument");
      assert.equal(message, `digest: expected ${expected}, got "${text}"`);
    }
  });

  it("a long digest is shortened in the message", () => {
    const error = assertThrows(() => parseDigest("x".repeat(60_000)), "InvalidArgument");
    assert.ok(error.message.length < 200);
  });
});

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  alreadyVerified,
  readVerified,
  validateAnnouncement,
} from "../../../src/client/call/announcement.ts";
import { CallScope } from "../../../src/client/call/scope.ts";
import type { PieceRequest } from "../../../src/client/downloader.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import type { ErrorCode } from "../../../src/errors.ts";
import type { ByteRange, PieceMetadata } from "../../../src/piece.ts";
import { assertRejects, assertThrows } from "../../support/failures.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";

const content = seededBytes(5, 1000);
const request: PieceRequest = { addr: "a:1", hostId: "h", taskId: "ab".repeat(32), number: 3 };
const valid: PieceMetadata = {
  number: 3,
  offset: 3000n,
  length: 1000n,
  digest: digestOf("sha256", content, portableHashers),
  parentId: "",
  trafficType: 1,
  costSeconds: 0n,
  createdAtSeconds: 0n,
};

const limits = { maxPieceLength: 1000, unverifiedPieces: "accept" } as const;

describe("validateAnnouncement", () => {
  it("accepts metadata that answers the request", () => {
    const announcement = validateAnnouncement(request, valid, limits);
    assert.deepEqual(announcement, {
      kind: "standard",
      metadata: valid,
      length: 1000,
      digest: { text: valid.digest, algorithm: "sha256" },
      start: 0,
      end: 1000,
    });
  });

  const faults: [string, ErrorCode, Partial<PieceMetadata>, ByteRange?][] = [
    ["another number", "PieceMismatch", { number: 4 }],
    ["a length over the limit", "LimitExceeded", { length: 1001n }],
    ["an end beyond 2^53", "LimitExceeded", { offset: BigInt(Number.MAX_SAFE_INTEGER) - 999n }],
    ["a digest of another algorithm", "ProtocolViolation", { digest: "blake3:00" }],
    ["a malformed digest", "ProtocolViolation", { digest: "crc32" }],
    ["a range over the end of the piece", "InvalidArgument", {}, { start: 0, end: 1001 }],
  ];
  for (const [what, code, changes, range] of faults) {
    it(`rejects ${what} with ${code}`, () => {
      const asked = { ...request, ...(range && { range }) };
      assertThrows(() => validateAnnouncement(asked, { ...valid, ...changes }, limits), code);
    });
  }
});

describe("a piece without a digest", () => {
  const bare = { ...valid, digest: "" };

  it("is accepted by default, and its content verified by length only", async () => {
    const announcement = validateAnnouncement(request, bare, limits);
    assert.equal(announcement.digest, undefined);
    const other = seededBytes(6, 1000);
    const { scope, source } = callWith(other);
    const piece = readVerified(announcement, source, scope, portableHashers);
    assert.equal(piece.digest, "");
    assert.deepEqual(await piece.bytes(), other);
    const short = callWith(other.subarray(1));
    const cut = readVerified(announcement, short.source, short.scope, portableHashers);
    await assertRejects(cut.bytes(), "TruncatedContent");
  });

  it("is refused by the policy refuse, of the request before that of the downloader", () => {
    const refusing = { ...limits, unverifiedPieces: "refuse" } as const;
    const refused = assertThrows(
      () => validateAnnouncement(request, bare, refusing),
      "ProtocolViolation",
    );
    assert.match(refused.message, /unverifiedPieces/);
    const asked = { ...request, unverifiedPieces: "refuse" } as const;
    assertThrows(() => validateAnnouncement(asked, bare, limits), "ProtocolViolation");
    const allowed = { ...request, unverifiedPieces: "accept" } as const;
    assert.equal(validateAnnouncement(allowed, bare, refusing).digest, undefined);
  });
});

describe("readVerified", () => {
  it("returns the content after its digest is verified", async () => {
    const { scope, source } = callWith(content);
    const piece = readVerified(announcementOf(), source, scope, portableHashers);
    assert.deepEqual(await piece.bytes(), content);
    assert.equal(scope.failure, undefined);
  });

  it("fails content with another digest as DigestMismatch", async () => {
    const { scope, source } = callWith(seededBytes(6, 1000));
    const piece = readVerified(announcementOf(), source, scope, portableHashers);
    await assertRejects(piece.bytes(), "DigestMismatch");
    assert.equal(scope.failure?.code, "DigestMismatch");
  });
});

describe("alreadyVerified", () => {
  it("returns the content without hashing it", async () => {
    const other = seededBytes(6, 1000);
    const { scope, source } = callWith(other);
    const piece = alreadyVerified(announcementOf(), source, scope);
    assert.deepEqual(await piece.bytes(), other);
  });

  it("returns the requested range", async () => {
    const { scope, source } = callWith(content);
    const piece = alreadyVerified(announcementOf({ start: 10, end: 20 }), source, scope);
    assert.deepEqual(await piece.bytes(), content.subarray(10, 20));
  });

  it("still fails content that is too short as TruncatedContent", async () => {
    const { scope, source } = callWith(content.subarray(1));
    const piece = alreadyVerified(announcementOf(), source, scope);
    await assertRejects(piece.bytes(), "TruncatedContent");
  });
});

function announcementOf(range?: ByteRange) {
  return validateAnnouncement({ ...request, ...(range && { range }) }, valid, limits);
}

function callWith(bytes: Uint8Array) {
  const scope = new CallScope(fakeRuntime().clock, {
    pieceTimeout: 1000,
    stallTimeout: 1000,
    what: "piece 3",
    addr: "a:1",
  });
  const chunks = [bytes.slice(0, 600), bytes.slice(600)];
  const source = {
    read: async () => chunks.shift(),
    end: async () => chunks[0]?.length ?? 0,
    cancel: () => {},
  };
  return { scope, source };
}

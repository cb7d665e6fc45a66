import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { create, type DescMessage, toBinary } from "@bufbuild/protobuf";
import { exceedsOverhead, MAX_MESSAGES } from "../../../src/client/grpc/message.ts";
import { TaskSchema } from "../../../src/gen/common/v2/common_pb.ts";
import {
  DownloadPieceResponseSchema,
  DownloadTaskResponseSchema,
} from "../../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { chunked, joined, seededBytes, seededRandom } from "../../support/random.ts";

const content = seededBytes(1, 100_000);
const piece = {
  number: 3,
  offset: 12n,
  length: 100_000n,
  digest: "crc32:1",
  parentId: "p",
  content,
};
const answer = toBinary(
  DownloadPieceResponseSchema,
  create(DownloadPieceResponseSchema, { piece, digest: "crc32:2" }),
);
const finished = toBinary(
  DownloadTaskResponseSchema,
  create(DownloadTaskResponseSchema, {
    hostId: "h",
    response: { case: "downloadPieceFinishedResponse", value: { piece } },
  }),
);

/** Overhead of a message of `schema` in bytes: the smallest limit that it does not exceed. */
function overheadOf(message: Uint8Array, schema: DescMessage): number {
  for (let limit = 0; ; limit++) {
    const exceeds = [[message], [...chunked(message, seededRandom(limit), 4096)]].map((chunks) =>
      exceedsOverhead(chunks, schema, limit),
    );
    assert.equal(exceeds[0], exceeds[1]);
    if (exceeds[0] === false) return limit;
  }
}

describe("overhead of a message", () => {
  it("counts everything except the content, at any depth", () => {
    assert.equal(overheadOf(answer, DownloadPieceResponseSchema), answer.length - content.length);
    assert.equal(
      overheadOf(finished, DownloadTaskResponseSchema),
      finished.length - content.length,
    );
  });

  it("counts all bytes of a message without content", () => {
    const task = create(TaskSchema, {
      id: "x".repeat(64),
      requestHeader: { a: "b", c: "d" },
      pieces: [{ number: 1 }, { number: 2, digest: "crc32:1" }],
      createdAt: { seconds: 1n, nanos: 5 },
    });
    const message = toBinary(TaskSchema, task);
    assert.equal(overheadOf(message, TaskSchema), message.length);
    assert.equal(overheadOf(new Uint8Array(0), TaskSchema), 0);
  });

  it("counts unknown fields of every wire type, and a group to the end", () => {
    for (const [what, bytes] of [
      ["an integer", [0x78, 0x80, 0x80, 0x01]],
      ["64 bits", [0x79, 1, 2, 3, 4, 5, 6, 7, 8]],
      ["bytes", [0x7a, 3, 1, 2, 3]],
      ["32 bits", [0x7d, 1, 2, 3, 4]],
      ["a group", [0x7b, 0x08, 1, 0x7c]],
    ] as const) {
      const message = joined([answer, Uint8Array.from(bytes)]);
      const expected = message.length - content.length;
      assert.equal(overheadOf(message, DownloadPieceResponseSchema), expected, what);
    }
  });

  it("counts repeated empty bytes fields, and every value that is not bytes", () => {
    const empty = new Uint8Array(20_000).map((_, at) => (at % 2 === 0 ? (6 << 3) | 2 : 0));
    const field = Uint8Array.of(0x0a, 0xa0, 0x9c, 0x01);
    assert.equal(
      exceedsOverhead([joined([field, empty])], DownloadPieceResponseSchema, 20_000),
      true,
    );
  });

  it("exceeds the limit with too many messages or map entries, even empty ones", () => {
    for (const number of [12, 8]) {
      const field = TaskSchema.fields.find((each) => each.number === number);
      assert.ok(
        number === 12 ? field?.fieldKind === "list" : field?.fieldKind === "map",
        `${number} ${field?.fieldKind}`,
      );
      const times = (count: number): Uint8Array =>
        new Uint8Array(2 * count).map((_, at) => (at % 2 === 0 ? (number << 3) | 2 : 0));
      assert.equal(exceedsOverhead([times(MAX_MESSAGES)], TaskSchema, 1 << 20), false);
      assert.equal(exceedsOverhead([times(MAX_MESSAGES + 1)], TaskSchema, 1 << 20), true);
    }
  });

  it("stops at the end of the message, whatever lengths its fields claim", () => {
    for (let cut = 0; cut < 80; cut++) {
      exceedsOverhead([answer.subarray(0, cut)], DownloadPieceResponseSchema, 1 << 20);
      exceedsOverhead([seededBytes(cut, cut)], DownloadPieceResponseSchema, 1 << 20);
    }
    const endless = Uint8Array.of(
      0x0a,
      0xff,
      0xff,
      0xff,
      0xff,
      0x0f,
      0x0a,
      0xff,
      0xff,
      0xff,
      0xff,
      0x0f,
    );
    assert.equal(exceedsOverhead([endless], DownloadPieceResponseSchema, 100), true);
    assert.equal(
      exceedsOverhead([new Uint8Array(12).fill(0xff)], DownloadPieceResponseSchema, 11),
      true,
    );
    assert.equal(
      exceedsOverhead([new Uint8Array(12).fill(0xff)], DownloadPieceResponseSchema, 12),
      false,
    );
  });
});

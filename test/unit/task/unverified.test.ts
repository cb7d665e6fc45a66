/** Pieces that a parent announces without a digest. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileSink } from "../../../adapters/files/sink.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { memorySink } from "../../../src/task/memory-sink.ts";
import type { TaskEvent, TaskStreamOptions } from "../../../src/task/task.ts";
import { assertRejects } from "../../support/failures.ts";
import { seededBytes } from "../../support/random.ts";
import {
  type Behaviour,
  FakeParents,
  fetcherOf,
  honest,
  taskId,
  withoutDigests,
} from "../../support/task-parents.ts";

const PIECE = 1000;
const content = seededBytes(41, 8 * PIECE + 500);
const other = seededBytes(42, content.length);
const sha256 = digestOf("sha256", content, portableHashers);

function download(
  behaviours: Readonly<Record<string, Behaviour>>,
  options: Partial<TaskStreamOptions> = {},
) {
  const parents = new FakeParents(content, PIECE, behaviours);
  const { fetcher, request } = fetcherOf(parents, Object.keys(behaviours));
  const to = memorySink();
  const events: TaskEvent[] = [];
  const onEvent = (event: TaskEvent): void => void events.push(event);
  const done = fetcher.downloadTask({ ...request, onEvent, ...options, to });
  return { done, to, events, parents };
}

describe("pieces without a digest", () => {
  it("are stored, and the content counts as not verified", async () => {
    const { done, to } = download({ "a:1": withoutDigests() });
    assert.deepEqual((await done).verified, { level: "none" });
    assert.deepEqual(to.bytes(), content);
  });

  it("are verified by the digest of the whole content, if that is known", async () => {
    const { done } = download({ "a:1": withoutDigests() }, { digest: sha256 });
    assert.deepEqual((await done).verified, { level: "whole", digest: sha256, by: "caller" });
    const wrong = download({ "a:1": withoutDigests(other, PIECE) }, { digest: sha256 });
    await assertRejects(wrong.done, "DigestMismatch");
  });

  it("are verified by the digests of the caller", async () => {
    const pieces = Array.from({ length: 9 }, (_, number) => ({
      number,
      offset: number * PIECE,
      length: Math.min(PIECE, content.length - number * PIECE),
      digest: digestOf(
        number % 2 === 0 ? "crc32" : "sha256",
        content.subarray(number * PIECE, (number + 1) * PIECE),
        portableHashers,
      ),
    }));
    const known = { contentLength: undefined, pieceLength: undefined, pieces };
    const { done, to } = download({ "a:1": withoutDigests() }, known);
    assert.deepEqual((await done).verified, { level: "pieces" });
    assert.deepEqual(to.bytes(), content);
    const wrong = download({ "a:1": withoutDigests(other, PIECE) }, known);
    await assertRejects(wrong.done, "DigestMismatch");
  });

  it("of two parents are no agreement between them", async () => {
    const same = download({ "a:1": withoutDigests(), "b:1": withoutDigests() });
    assert.deepEqual((await same.done).verified, { level: "none" });
    assert.deepEqual(same.parents.digestProbes, []);
    const mixed = download({ "a:1": withoutDigests(), "b:1": withoutDigests(other, PIECE) });
    assert.deepEqual((await mixed.done).verified, { level: "none" });
  });

  it("do not count as verified beside verified pieces of another parent", async () => {
    const { done, to } = download({ "a:1": withoutDigests(), "b:1": honest() });
    const { verified, parents } = await done;
    assert.ok(parents.every(({ pieces }) => pieces > 0));
    assert.deepEqual(verified, { level: "none" });
    assert.deepEqual(to.bytes(), content);
  });

  it("are compared with the digests of another parent", async () => {
    const { done } = download({ "a:1": withoutDigests(other, PIECE), "b:1": honest() });
    const { message } = await assertRejects(done, "DigestMismatch");
    assert.match(message, /different contents/);
  });

  it("are refused by the policy refuse, and taken from another parent", async () => {
    const refused = { unverifiedPieces: "refuse" } as const;
    await assertRejects(download({ "a:1": withoutDigests() }, refused).done, "ProtocolViolation");
    const { done, to } = download({ "a:1": withoutDigests(), "b:1": honest() }, refused);
    const { verified, parents } = await done;
    assert.deepEqual(verified, { level: "pieces" });
    assert.deepEqual(
      parents.map(({ pieces }) => pieces),
      [0, 9],
    );
    assert.deepEqual(to.bytes(), content);
  });

  it("are reported, and served to other peers, with the CRC-32 of the whole piece", async () => {
    const range = { start: 1500, end: 4200 };
    const { done, to, events } = download({ "a:1": withoutDigests() }, { range });
    await done;
    assert.deepEqual(to.bytes(), content.subarray(1500, 4200));
    const reported = events.flatMap((event) => (event.type === "piece" ? [event] : []));
    assert.equal(reported.length, 4);
    for (const { number, digest } of reported) {
      const piece = content.subarray(number * PIECE, (number + 1) * PIECE);
      assert.equal(digest, digestOf("crc32", piece, portableHashers));
    }
    const stored = await done.store.getPiece({ taskId, number: 2, kind: "standard" });
    const piece = content.subarray(2 * PIECE, 3 * PIECE);
    assert.equal(stored?.metadata.digest, digestOf("crc32", piece, portableHashers));
  });

  it("stay unverified in the file of an interrupted download", async () => {
    const directory = await mkdtemp(join(tmpdir(), "vortex-peer-"));
    try {
      const path = join(directory, "content");
      const first = new FakeParents(content, PIECE, { "a:1": withoutDigests() });
      const { fetcher, request } = fetcherOf(first, ["a:1"]);
      const stop = new AbortController();
      let stored = 0;
      const onEvent = ({ type }: TaskEvent): void => {
        if (type === "piece" && ++stored === 4) stop.abort();
      };
      const cut = { ...request, concurrentPieceCount: 1, signal: stop.signal, onEvent };
      await assertRejects(fetcher.downloadTask({ ...cut, to: fileSink(path) }), "Aborted");
      // The second parent has digests, so only the pieces of the first one lack them.
      const second = new FakeParents(content, PIECE, { "b:1": honest() });
      const resuming = fetcherOf(second, ["b:1"]);
      const to = fileSink(path);
      const report = await resuming.fetcher.downloadTask({ ...resuming.request, to });
      assert.equal(report.resumedPieces, 4);
      assert.deepEqual(report.verified, { level: "none" });
      assert.deepEqual(new Uint8Array(await readFile(path)), content);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});

describe("the event of a piece", () => {
  it("has its extent and digest, its cost in ms and the time of its request", async () => {
    const before = Date.now();
    const { done, events } = download({ "a:1": honest() });
    await done;
    const [event] = events.flatMap((each) =>
      each.type === "piece" && each.number === 8 ? [each] : [],
    );
    assert.ok(event !== undefined);
    const { cost, startedAt = 0, ...rest } = event;
    assert.deepEqual(rest, {
      type: "piece",
      number: 8,
      bytes: 500,
      parent: "a:1",
      offset: 8000,
      length: 500,
      digest: digestOf("crc32", content.subarray(8000), portableHashers),
    });
    // The clock of the test stands still.
    assert.equal(cost, 0);
    assert.ok(startedAt >= before && startedAt <= Date.now(), `${startedAt}`);
  });
});

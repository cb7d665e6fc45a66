import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { fileSink } from "../../../adapters/files/sink.ts";
import { storageError } from "../../../adapters/files/storage-error.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { VortexError } from "../../../src/errors.ts";
import type { TaskEvent, TaskReport, TaskStreamOptions } from "../../../src/task/task.ts";
import { assertRejects } from "../../support/failures.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { joined, seededBytes } from "../../support/random.ts";
import {
  type Behaviour,
  FakeParents,
  fetcherOf,
  honest,
  taskId,
  taskSettings,
} from "../../support/task-parents.ts";

const PIECE = 4096;
const content = seededBytes(11, 12 * PIECE + 77);
const sha256 = digestOf("sha256", content, portableHashers);

/** Runs a test in a temporary directory. */
async function inDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-sink-"));
  try {
    await run(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Downloads the task to `path` once. Returns the parents, the events and the result. */
function attempt(
  path: string,
  behaviour: Behaviour = honest(),
  changes: Partial<TaskStreamOptions> = {},
  onEvent: () => void = () => {},
): {
  readonly parents: FakeParents;
  readonly events: TaskEvent[];
  readonly done: Promise<TaskReport>;
} {
  const runtime = fakeRuntime();
  const parents = new FakeParents(content, PIECE, { "a:1": behaviour });
  const { fetcher, request } = fetcherOf(
    parents,
    ["a:1"],
    taskSettings({ concurrentPieceCount: 2 }, runtime),
  );
  const events: TaskEvent[] = [];
  const to = fileSink(path);
  const done = fetcher.downloadTask({
    ...request,
    ...changes,
    to,
    onEvent(event) {
      events.push(event);
      onEvent();
    },
  });
  const settled = runtime.clock.advanceUntil(done, 100_000).then(() => done);
  return { parents, events, done: settled };
}

/** Source that delivers the first `count` pieces and fails the task at the next one. */
function breakingAfter(count: number): Behaviour {
  return (request) =>
    request.number < count ? honest()(request) : new VortexError("Internal", "the power is gone");
}

function journaled(path: string): number[] {
  const lines = readFileSync(`${path}.part.journal`, "utf8").trim().split("\n").slice(1);
  return lines.map((line) => JSON.parse(line).number);
}

function assertFile(path: string, expected: Uint8Array): void {
  const found = readFileSync(path);
  assert.equal(found.length, expected.length);
  assert.equal(Buffer.compare(found, expected), 0, "the file has other bytes");
}

describe("a task to a file", () => {
  it("is renamed to its path when complete and verified, and leaves no other file", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      const { done } = attempt(path, honest(), { digest: sha256 });
      assert.deepEqual((await done).verified, { level: "whole", digest: sha256, by: "caller" });
      assertFile(path, content);
      assert.deepEqual(readdirSync(directory), ["out"]);
    }));

  it("replaces an existing file only at the end", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      writeFileSync(path, "before");
      await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
      assert.equal(readFileSync(path, "utf8"), "before");
      await attempt(path).done;
      assertFile(path, content);
    }));

  it("contains only the range of a range request", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(
        attempt(path, breakingAfter(4), { range: { start: 5000, end: 30_000 } }).done,
        "Internal",
      );
      const { done, parents } = attempt(path, honest(), { range: { start: 5000, end: 30_000 } });
      const { resumedPieces } = await done;
      assert.ok(resumedPieces >= 1);
      assert.ok(
        !parents.numbers().includes(1),
        "the piece that the range covers only in part is not fetched again either",
      );
      assertFile(path, content.subarray(5000, 30_000));
    }));

  it("that is empty gives an empty file", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      const parents = new FakeParents(new Uint8Array(0), PIECE, {});
      const { fetcher, request } = fetcherOf(parents, ["a:1"]);
      await fetcher.downloadTask({ ...request, to: fileSink(path) });
      assertFile(path, new Uint8Array(0));
    }));

  it("can be read after completion until the file changes", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      const parents = new FakeParents(content, PIECE, { "a:1": honest() });
      const { fetcher, request } = fetcherOf(parents, ["a:1"]);
      const download = fetcher.downloadTask({ ...request, to: fileSink(path) });
      await download;
      const read = async (): Promise<Uint8Array> => {
        const piece = await download.store.getPiece({ taskId, number: 12, kind: "standard" });
        const chunks: Uint8Array[] = [];
        for await (const chunk of piece?.read() ?? []) chunks.push(chunk);
        return joined(chunks);
      };
      assert.deepEqual(await read(), parents.bytesOf(12));
      writeFileSync(path, "other");
      await assertRejects(read(), "StorageFailed");
    }));

  it("leaves no file when the digest of the whole is wrong", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      const digest = `sha256:${"0".repeat(64)}`;
      await assertRejects(attempt(path, honest(), { digest }).done, "DigestMismatch");
      assert.deepEqual(readdirSync(directory), []);
    }));

  it("leaves no file when no piece arrived", () =>
    inDirectory(async (directory) => {
      await assertRejects(attempt(join(directory, "out"), breakingAfter(0)).done, "Internal");
      assert.deepEqual(readdirSync(directory), []);
    }));
});

describe("resuming after a failure", () => {
  it("fetches only the missing pieces", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
      assert.deepEqual(readdirSync(directory).sort(), ["out.part", "out.part.journal"]);
      const kept = journaled(path);
      assert.ok(kept.length >= 4);
      const { done, parents } = attempt(path, honest(), { digest: sha256 });
      const report = await done;
      assert.equal(report.resumedPieces, kept.length);
      assert.deepEqual(
        parents.numbers().filter((number) => kept.includes(number)),
        [],
      );
      assertFile(path, content);
    }));

  it("verifies journaled pieces, and fetches damaged or missing ones again", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
      const kept = journaled(path);
      const [damaged = 0] = kept;
      const part = readFileSync(`${path}.part`);
      part[damaged * PIECE + 9] = (part[damaged * PIECE + 9] ?? 0) ^ 1;
      writeFileSync(`${path}.part`, part.subarray(0, Math.max(...kept) * PIECE + 5));
      const { done, parents, events } = attempt(path);
      await done;
      const missing = [damaged, Math.max(...kept)];
      assert.ok(missing.every((number) => parents.numbers().includes(number)));
      assert.equal(events.filter(({ type }) => type === "piece-damaged").length, 2);
      assertFile(path, content);
    }));

  it("drops an incomplete last line of the journal, and keeps the next line intact", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
      const journal = `${path}.part.journal`;
      const text = readFileSync(journal, "utf8");
      writeFileSync(journal, `${text}{"number":11,"digest":"crc`);
      await assertRejects(attempt(path, breakingAfter(8)).done, "Internal");
      for (const line of readFileSync(journal, "utf8").trim().split("\n")) JSON.parse(line);
      const { done } = attempt(path);
      assert.ok((await done).resumedPieces >= 7);
      assertFile(path, content);
    }));

  it("truncates an incomplete last line at its start, even after bytes that are not text", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
      const journal = `${path}.part.journal`;
      const before = Buffer.concat([
        readFileSync(journal),
        Buffer.from("\xff\xff\xff\n", "latin1"),
      ]);
      writeFileSync(journal, Buffer.concat([before, Buffer.from('{"number":11,"dig')]));
      await assertRejects(attempt(path, breakingAfter(8)).done, "Internal");
      const after = readFileSync(journal);
      assert.ok(after.subarray(0, before.length).equals(before));
      for (const line of after.toString("utf8", before.length).trim().split("\n")) JSON.parse(line);
    }));

  it("skips a line for bytes that span two pieces", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
      const kept = journaled(path);
      const digest = digestOf("crc32", content.subarray(PIECE / 2, PIECE * 1.5), portableHashers);
      const line = JSON.stringify({ number: 0.5, digest, crc32: Number(digest.slice(6)) });
      writeFileSync(
        `${path}.part.journal`,
        `${readFileSync(`${path}.part.journal`, "utf8")}${line}\n`,
      );
      assert.equal((await attempt(path).done).resumedPieces, kept.length);
      assertFile(path, content);
    }));

  for (const [name, changes] of [
    ["another task", { taskId: "b2".repeat(32) }],
    ["another range", { range: { start: 0, end: 5 * PIECE } }],
    ["another kind", { kind: "cache" }],
  ] as const) {
    it(`starts from scratch for ${name}`, () =>
      inDirectory(async (directory) => {
        const path = join(directory, "out");
        await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
        assert.equal((await attempt(path, honest(), changes).done).resumedPieces, 0);
      }));
  }

  it("starts from scratch with an invalid journal", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      writeFileSync(`${path}.part.journal`, "garbage\n\u0000\n");
      writeFileSync(`${path}.part`, "x".repeat(100_000));
      assert.equal((await attempt(path).done).resumedPieces, 0);
      assertFile(path, content);
    }));

  it("skips invalid lines", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
      const journal = `${path}.part.journal`;
      const kept = journaled(path).length;
      // Correct bytes in the file, but not those of a piece.
      const between = digestOf(
        "crc32",
        content.subarray(PIECE / 2, PIECE / 2 + PIECE),
        portableHashers,
      );
      const lines = [
        "[]",
        "null",
        "7",
        '{"number":"1"}',
        '{"number":1,"digest":"md5:1","crc32":1}',
        '{"number":-4}',
        JSON.stringify({ number: 0.5, digest: between, crc32: Number(between.slice(6)) }),
        "\u0000",
      ];
      writeFileSync(journal, `${readFileSync(journal, "utf8")}${lines.join("\n")}\n`);
      assert.equal((await attempt(path).done).resumedPieces, kept);
      assertFile(path, content);
    }));

  it("has all pieces of a process that was killed between its last two steps", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      await assertRejects(attempt(path, breakingAfter(12)).done, "Internal");
      const { done, parents } = attempt(path);
      await done;
      const journal = parents.numbers().length;
      assert.ok(journal >= 1);
      // State before the journal is removed: the file has its path, and the journal has all pieces
      // and the end.
      const header = JSON.stringify({
        version: 2,
        taskId,
        kind: "standard",
        contentLength: content.length,
        pieceLength: PIECE,
        start: 0,
        length: content.length,
        digest: null,
      });
      const pieces = Array.from({ length: 13 }, (_, number) => {
        const digest = digestOf("crc32", parents.bytesOf(number), portableHashers);
        return JSON.stringify({ number, digest, crc32: Number(digest.slice(6)) });
      });
      writeFileSync(
        `${path}.part.journal`,
        `${[header, ...pieces, '{"complete":true}'].join("\n")}\n`,
      );
      const again = attempt(path);
      assert.equal((await again.done).resumedPieces, 13);
      assert.deepEqual(again.parents.asked, []);
      assertFile(path, content);
      assert.deepEqual(readdirSync(directory), ["out"]);
    }));
});

describe("disks", () => {
  it("a full or failing disk gives StorageFailed with the reason", () => {
    for (const [code, reason] of [
      ["ENOSPC", "no space left on device"],
      ["EDQUOT", "disk quota exceeded"],
      ["EROFS", "read-only file system"],
      ["EIO", "device I/O error"],
    ] as const) {
      const error = storageError(
        Object.assign(new Error("native"), { code }),
        "cannot write out.part",
      );
      assert.deepEqual(
        [error.code, error.message],
        ["StorageFailed", `cannot write out.part: ${reason}`],
      );
    }
  });

  it("a missing directory gives StorageFailed with the reason", () =>
    inDirectory(async (directory) => {
      const error = await assertRejects(
        attempt(join(directory, "no", "out")).done,
        "StorageFailed",
      );
      assert.match(error.message, /^cannot create \S+: no such file or directory/);
    }));

  const root = process.getuid?.() === 0;
  it(
    `a directory without permission gives StorageFailed with the reason${root ? " [gap: root may write everywhere]" : ""}`,
    { skip: root },
    () =>
      inDirectory(async (directory) => {
        chmodSync(directory, 0o555);
        const error = await assertRejects(attempt(join(directory, "out")).done, "StorageFailed");
        assert.match(error.message, /permission denied/);
        chmodSync(directory, 0o755);
      }),
  );

  it("a directory as the path is rejected before anything is fetched", () =>
    inDirectory(async (directory) => {
      const path = join(directory, "out");
      mkdirSync(path);
      const { done, parents } = attempt(path);
      const { message } = await assertRejects(done, "StorageFailed");
      assert.match(message, /: expected a file, got a directory$/);
      assert.deepEqual(parents.asked, []);
      assert.deepEqual(readdirSync(directory), ["out"]);
    }));

  it("a sink accepts one download only", () =>
    inDirectory(async (directory) => {
      const parents = new FakeParents(content, PIECE, { "a:1": honest() });
      const { fetcher, request } = fetcherOf(parents, ["a:1"]);
      const to = fileSink(join(directory, "out"));
      await fetcher.downloadTask({ ...request, to });
      await assertRejects(fetcher.downloadTask({ ...request, to }), "InvalidArgument");
    }));
});

describe("paths that another user has taken", () => {
  /** Entries to create at `path`. They may lead to `victim`, which must not change. */
  const plants: readonly (readonly [
    what: string,
    plant: (path: string, victim: string) => Promise<void> | void,
  ])[] = [
    ["a symbolic link", (path, victim) => symlinkSync(victim, path)],
    ["a symbolic link to nothing", (path, victim) => symlinkSync(`${victim}.new`, path)],
    ["a hard link", (path, victim) => linkSync(victim, path)],
    ["a pipe", (path) => void execFileSync("mkfifo", [path])],
  ];
  for (const suffix of [".part", ".part.journal"]) {
    for (const [what, plant] of plants) {
      it(`${what} in place of ${suffix} is removed and never written to`, { timeout: 60_000 }, () =>
        inDirectory(async (directory) => {
          const path = join(directory, "out");
          const victim = join(directory, "victim");
          writeFileSync(victim, "precious");
          await plant(path + suffix, victim);
          await attempt(path).done;
          assertFile(path, content);
          assert.equal(readFileSync(victim, "utf8"), "precious");
          assert.deepEqual(readdirSync(directory).sort(), ["out", "victim"]);
        }),
      );
    }
  }

  for (const [what, plant] of plants.filter(([what]) => what !== "a hard link")) {
    it(`${what} in place of the lock gives StorageFailed at once`, { timeout: 60_000 }, () =>
      inDirectory(async (directory) => {
        const path = join(directory, "out");
        const victim = join(directory, "victim");
        writeFileSync(victim, "precious");
        await plant(`${path}.part.lock`, victim);
        await assertRejects(attempt(path).done, "StorageFailed");
        assert.equal(readFileSync(victim, "utf8"), "precious");
      }),
    );
  }

  const root = process.getuid?.() === 0;
  it(
    `another user's file is discarded in a world-writable directory, and resumed elsewhere${root ? "" : " [gap: only root can give files away]"}`,
    { skip: !root },
    () =>
      inDirectory(async (directory) => {
        const path = join(directory, "out");
        for (const [mode, reused] of [
          [0o755, true],
          [0o777, false],
        ] as const) {
          await assertRejects(attempt(path, breakingAfter(5)).done, "Internal");
          for (const suffix of [".part", ".part.journal"]) chownSync(path + suffix, 12_345, 12_345);
          chmodSync(directory, mode);
          assert.equal((await attempt(path).done).resumedPieces > 0, reused, mode.toString(8));
          assertFile(path, content);
        }
      }),
  );

  for (const [what, change] of [
    ["truncated", (part: string) => truncateSync(part, 5)],
    [
      "replaced",
      (part: string) => {
        unlinkSync(part);
        writeFileSync(
          part,
          content.map((byte) => byte ^ 1),
        );
      },
    ],
    ["removed", unlinkSync],
    ["taken over by another process", (part: string) => writeFileSync(`${part}.lock`, "{}")],
  ] as const) {
    it(`a file that is ${what} during the download is not reported as complete`, () =>
      inDirectory(async (directory) => {
        const path = join(directory, "out");
        const { done, events } = attempt(path, honest(), {}, () => {
          if (events.filter(({ type }) => type === "piece").length === 13) change(`${path}.part`);
        });
        const error = await assertRejects(done, "StorageFailed");
        assert.match(
          error.message,
          /out\.part: changed by another process during the download|^lock \S+ was taken over by another program/,
        );
        assert.equal(existsSync(path), false);
      }));
  }
});

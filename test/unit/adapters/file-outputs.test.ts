import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { mkdtemp, open, type rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { descriptorOf } from "../../../adapters/files/descriptor.ts";
import { replaceFile } from "../../../adapters/files/replace-file.ts";
import { sideFilesOf } from "../../../adapters/files/side-files.ts";
import { fileSink } from "../../../adapters/files/sink.ts";
import { VortexError } from "../../../src/errors.ts";
import type { TaskReport } from "../../../src/task/task.ts";
import { assertRejects } from "../../support/failures.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";
import {
  type Behaviour,
  FakeParents,
  fetcherOf,
  honest,
  taskSettings,
} from "../../support/task-parents.ts";

const PIECE = 4096;
const content = seededBytes(5, 6 * PIECE + 5);
/** Reason to skip tests with descriptor paths; empty where they exist. */
const noDescriptors = existsSync("/proc/self/fd") ? "" : " [gap: no /proc]";

async function inDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-places-"));
  try {
    await run(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Downloads the task to `path`. */
function fetchTo(path: string, behaviour: Behaviour = honest()): Promise<TaskReport> {
  const runtime = fakeRuntime();
  const parents = new FakeParents(content, PIECE, { "a:1": behaviour });
  const { fetcher, request } = fetcherOf(
    parents,
    ["a:1"],
    taskSettings({ concurrentPieceCount: 1 }, runtime),
  );
  const done = fetcher.downloadTask({ ...request, to: fileSink(path) });
  return runtime.clock.advanceUntil(done, 100_000).then(() => done);
}

/** Source that delivers three pieces and fails the task at the next one. */
const breaking: Behaviour = (request) =>
  request.number < 3 ? honest()(request) : new VortexError("Internal", "the power is gone");

describe("a long file name", () => {
  for (const [what, name] of [
    ["of 236 bytes", "a".repeat(236)],
    ["of 237 bytes", "a".repeat(237)],
    ["of 243 bytes", "a".repeat(243)],
    ["of 255 bytes", "a".repeat(255)],
    ["of 85 characters, 255 bytes", "€".repeat(85)],
    ["of 80 characters, 240 bytes", "€".repeat(80)],
  ] as const) {
    it(`${what} is written, and a download to it resumes after a failure`, () =>
      inDirectory(async (directory) => {
        const path = join(directory, name);
        await assertRejects(fetchTo(path, breaking), "Internal");
        const { part, journal } = await sideFilesOf(path);
        assert.deepEqual(readdirSync(directory).sort(), [basename(part), basename(journal)]);
        assert.equal((await fetchTo(path)).resumedPieces, 3);
        assert.ok(readFileSync(path).equals(content));
        assert.deepEqual(readdirSync(directory), [name]);
      }));
  }

  it("is the prefix of the temporary files while they fit, and a hash of it otherwise", async () => {
    for (const [name, stem] of [
      ["short", "short"],
      ["a".repeat(236), "a".repeat(236)],
      ["a".repeat(237), "03f43f7850492825c408f6995d3ae125"],
    ] as const) {
      const { part, journal, lock } = await sideFilesOf(join("folder", name));
      assert.equal(part, join("folder", `${stem}.part`));
      assert.deepEqual([journal, lock], [`${part}.journal`, `${part}.lock`]);
    }
    const names = [1, 2].map((last) => `${"a".repeat(250)}${last}`);
    const [one, other] = await Promise.all(names.map(sideFilesOf));
    assert.notEqual(one?.part, other?.part);
  });

  it("that is too long for the file system fails with StorageFailed and the reason", () =>
    inDirectory(async (directory) => {
      const error = await assertRejects(fetchTo(join(directory, "a".repeat(256))), "StorageFailed");
      assert.match(error.message, /: name too long for the file system$/);
      assert.deepEqual(readdirSync(directory), []);
    }));
});

describe("a file that cannot be replaced", () => {
  const refused = (code: string): typeof rename => {
    return () => Promise.reject(Object.assign(new Error("native"), { code }));
  };

  for (const code of ["EBUSY", "EXDEV"]) {
    it(`(${code}) is overwritten in place`, () =>
      inDirectory(async (directory) => {
        const [from, to] = [join(directory, "from"), join(directory, "to")];
        const bytes = seededBytes(1, 3 * 1024 * 1024 + 1);
        writeFileSync(from, bytes);
        writeFileSync(to, seededBytes(2, 4 * 1024 * 1024));
        const handle = await open(to, "r");
        const { ino } = await handle.stat({ bigint: true });
        const stats = await replaceFile(from, to, refused(code));
        assert.deepEqual([stats?.ino, stats?.size], [ino, BigInt(bytes.length)]);
        assert.ok((await handle.readFile()).equals(bytes), "the existing file has the new content");
        await handle.close();
        assert.deepEqual(readdirSync(directory), ["to"]);
      }));
  }

  it("for any other reason is left unchanged", () =>
    inDirectory(async (directory) => {
      const [from, to] = [join(directory, "from"), join(directory, "to")];
      writeFileSync(from, "new");
      writeFileSync(to, "old");
      await assert.rejects(replaceFile(from, to, refused("EACCES")));
      assert.deepEqual([readFileSync(from, "utf8"), readFileSync(to, "utf8")], ["new", "old"]);
      assert.equal(await replaceFile(from, to), undefined);
      assert.equal(readFileSync(to, "utf8"), "new");
    }));

  it("or written in place leaves the content at its source path", () =>
    inDirectory(async (directory) => {
      const from = join(directory, "from");
      writeFileSync(from, "new");
      await assert.rejects(replaceFile(from, join(directory, "no", "to"), refused("EBUSY")));
      assert.equal(readFileSync(from, "utf8"), "new");
    }));
});

describe("the path of a descriptor", () => {
  it("is detected by its name, also for another process", async () => {
    for (const [path, fd] of [
      ["/dev/stdin", 0],
      ["/dev/stdout", 1],
      ["/dev/stderr", 2],
      ["/dev/fd/7", 7],
      ["/dev/../dev/fd/7", 7],
      ["/proc/self/fd/12", 12],
      ["/proc/thread-self/fd/12", 12],
      ["/proc/999999999/fd/3", undefined],
    ] as const) {
      assert.deepEqual((await descriptorOf(path))?.fd, fd, path);
      assert.notEqual(await descriptorOf(path), undefined, path);
    }
    for (const path of [
      "/dev/null",
      "/dev/stdout2",
      "/dev/fd",
      "/proc/self/status",
      "/tmp/dev/fd/1",
      "dev/fd/1",
      "7",
    ]) {
      assert.equal(await descriptorOf(path), undefined, path);
    }
  });

  it(
    `is detected behind symbolic links to it or to its folder${noDescriptors}`,
    { skip: noDescriptors !== "" },
    () =>
      inDirectory(async (directory) => {
        symlinkSync("/dev/stdout", join(directory, "one"));
        symlinkSync("one", join(directory, "two"));
        symlinkSync("/proc/self/fd", join(directory, "folder"));
        symlinkSync("circle", join(directory, "circle"));
        const found = async (name: string): Promise<number | undefined> =>
          (await descriptorOf(join(directory, name)))?.fd;
        assert.deepEqual(
          [await found("one"), await found("two"), await found("folder/5")],
          [1, 1, 5],
        );
        assert.equal((await descriptorOf(`/proc/${process.pid}/fd/4`))?.fd, 4);
        assert.equal(await descriptorOf(join(directory, "circle")), undefined);
        assert.equal(await descriptorOf(join(directory, "none", "none")), undefined);
      }),
  );

  it(
    `is rejected as the target of a download, which would replace the open file${noDescriptors}`,
    { skip: noDescriptors !== "" },
    () =>
      inDirectory(async (directory) => {
        const path = join(directory, "precious");
        writeFileSync(path, "precious");
        const handle = await open(path, "r+");
        try {
          const link = join(directory, "link");
          symlinkSync(`/proc/self/fd/${handle.fd}`, link);
          for (const target of ["/dev/stdout", link]) {
            const error = await assertRejects(fetchTo(target), "StorageFailed");
            assert.equal(
              error.message,
              `${target}: expected a file path, got an open file descriptor; use streamTask`,
            );
          }
        } finally {
          await handle.close();
        }
        assert.deepEqual(readdirSync(directory).sort(), ["link", "precious"]);
        assert.equal(readFileSync(path, "utf8"), "precious");
      }),
  );
});

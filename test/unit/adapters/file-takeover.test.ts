/** Tests downloads that take over the files of a suspended download. */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { copyFile, mkdtemp, type rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { moveToNewInode } from "../../../adapters/files/new-inode.ts";
import { ownIdentity, type ProcessIdentity } from "../../../adapters/files/processes.ts";
import { replaceFile } from "../../../adapters/files/replace-file.ts";
import { fileSinkWith } from "../../../adapters/files/sink.ts";
import { VortexError } from "../../../src/errors.ts";
import type { SinkLayout, SinkPiece, SinkSession } from "../../../src/task/sink.ts";
import { assertRejects } from "../../support/failures.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const PIECE = 100;
const layout: SinkLayout = {
  taskId: "a1".repeat(32),
  kind: "standard",
  contentLength: 3 * PIECE,
  pieceLength: PIECE,
  longestPiece: PIECE,
  start: 0,
  length: 3 * PIECE,
  part: (number) => ({ number, position: PIECE * number, length: PIECE }),
};
const piece = (number: number): SinkPiece => ({ number, digest: `crc32:${number}`, crc32: number });
/** Reason to skip tests that identify processes by pid; empty where that works. */
const noPids = existsSync("/proc/self/ns/pid")
  ? ""
  : " [gap: no /proc, so no process is provably dead]";
const lost = /^lock \S+out\.part\.lock was taken over /;
const held = async (): Promise<void> => {};
const notHeld = (): Promise<void> =>
  Promise.reject(new VortexError("StorageFailed", "the lock was taken over"));

/** Clock that also advances without its timers, as in a suspended process. */
class SuspendableClock extends FakeClock {
  /** Time that passed without firing timers, in ms. */
  suspended = 0;

  override now(): number {
    return super.now() + this.suspended;
  }
}

/** Runs a test with the path of an output file in a temporary directory. */
async function withOutput(run: (path: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-takeover-"));
  try {
    await run(join(directory, "out"));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function open(path: string, clock: FakeClock = new FakeClock()): Promise<SinkSession> {
  const options = {
    signal: new AbortController().signal,
    onLimitIncrease: () => {},
    onFailure: () => {},
  };
  return fileSinkWith(path, { clock }).open(layout, options);
}

/** Writes a piece that consists of one letter. */
async function put(session: SinkSession, number: number, letter: string): Promise<void> {
  const bytes = new TextEncoder().encode(letter.repeat(PIECE));
  await session.write(number, number * PIECE, bytes);
}

/** Makes the lock of a download look like that of another process, silent for 61 s. */
async function makeForeign(path: string, changes: Partial<ProcessIdentity>): Promise<void> {
  const lock = `${path}.part.lock`;
  unlinkSync(lock);
  const token = crypto.randomUUID();
  writeFileSync(
    lock,
    JSON.stringify({ ...(await ownIdentity()), host: "there", token, ...changes }),
  );
  const past = new Date(Date.now() - 61_000);
  utimesSync(lock, past, past);
}

const inodesOf = (path: string): number[] =>
  [".part", ".part.journal"].map((suffix) => statSync(path + suffix).ino);

describe("a download that takes over from a silent download", () => {
  it("resumes from its pieces in new inodes, which the silent download does not write to", () =>
    withOutput(async (path) => {
      const stopped = await open(path);
      for (const number of [0, 2]) await put(stopped, number, "a");
      await stopped.commit(piece(0));
      const before = inodesOf(path);
      await makeForeign(path, { system: "elsewhere" });
      const session = await open(path);
      assert.deepEqual(session.resumed, [piece(0)]);
      for (const [index, inode] of inodesOf(path).entries()) assert.notEqual(inode, before[index]);
      // Its clock was suspended too, so it has not detected the loss yet.
      await put(stopped, 1, "x");
      await stopped.commit(piece(2));
      for (const number of [1, 2]) {
        await put(session, number, "b");
        await session.commit(piece(number));
      }
      const journal = readFileSync(`${path}.part.journal`, "utf8");
      assert.equal(journal.match(/"number":2/g)?.length, 1);
      await session.finish({ signal: new AbortController().signal });
      await put(stopped, 1, "x");
      const content = ["a", "b", "b"].map((letter) => letter.repeat(PIECE)).join("");
      assert.equal(readFileSync(path, "utf8"), content);
      assert.match(
        (
          await assertRejects(
            stopped.finish({ signal: new AbortController().signal }),
            "StorageFailed",
          )
        ).message,
        lost,
      );
      await stopped.abort(undefined);
      assert.equal(readFileSync(path, "utf8"), content);
      assert.deepEqual(readdirSync(join(path, "..")), ["out"]);
    }));

  it(
    `resumes in the same inodes when the other process is provably dead${noPids}`,
    { skip: noPids !== "" },
    () =>
      withOutput(async (path) => {
        const dead = await open(path);
        await put(dead, 0, "a");
        await dead.commit(piece(0));
        const before = inodesOf(path);
        await makeForeign(path, { started: "1" });
        const session = await open(path);
        assert.deepEqual(session.resumed, [piece(0)]);
        assert.deepEqual(inodesOf(path), before);
        await session.abort(undefined, { discard: true });
        await dead.abort(undefined);
      }),
  );

  it("starts from zero when the silent download had no files", () =>
    withOutput(async (path) => {
      writeFileSync(`${path}.part.lock`, "");
      const past = new Date(Date.now() - 61_000);
      utimesSync(`${path}.part.lock`, past, past);
      const session = await open(path);
      assert.deepEqual(session.resumed, []);
      await session.abort(undefined);
      assert.deepEqual(readdirSync(join(path, "..")), []);
    }));
});

describe("a download that was suspended and taken over", () => {
  it("fails before its next write, whichever that is", () =>
    withOutput(async (path) => {
      const clock = new SuspendableClock();
      const stopped = await open(path, clock);
      for (const number of [0, 2]) await put(stopped, number, "a");
      await stopped.commit(piece(0));
      await makeForeign(path, { system: "elsewhere" });
      clock.suspended = 61_000;
      const part = readFileSync(`${path}.part`);
      const journal = readFileSync(`${path}.part.journal`);
      const lock = readFileSync(`${path}.part.lock`);
      for (const attempt of [
        () => put(stopped, 1, "x"),
        () => stopped.commit(piece(1)),
        async () => stopped.restart?.([]),
        () => stopped.finish({ signal: new AbortController().signal }),
      ]) {
        const { message } = await assertRejects(attempt(), "StorageFailed");
        assert.match(message, /by process \d+ on there: .*, got none for 61 s; /);
      }
      await stopped.abort(undefined, { discard: true });
      assert.deepEqual(readFileSync(`${path}.part`), part);
      assert.deepEqual(readFileSync(`${path}.part.journal`), journal);
      assert.deepEqual(readFileSync(`${path}.part.lock`), lock);
      assert.equal(existsSync(path), false);
    }));

  it("keeps the files of its successor when it fetched no piece", () =>
    withOutput(async (path) => {
      const stopped = await open(path);
      await makeForeign(path, { system: "elsewhere" });
      const session = await open(path);
      await put(session, 0, "b");
      await session.commit(piece(0));
      await stopped.abort(undefined);
      assert.deepEqual(readdirSync(join(path, "..")).sort(), [
        "out.part",
        "out.part.journal",
        "out.part.lock",
      ]);
      await session.abort(undefined);
    }));

  it("before it opened its files keeps those of its successor unchanged", () =>
    withOutput(async (path) => {
      const first = await open(path);
      await put(first, 0, "a");
      await first.commit(piece(0));
      await first.abort(undefined);
      const journal = `${readFileSync(`${path}.part.journal`, "utf8")}{"number":1,`;
      writeFileSync(`${path}.part.journal`, journal);
      const clock = new SuspendableClock();
      const setTimer = clock.setTimer.bind(clock);
      // The first timer is for the heartbeats, when the lock is taken.
      clock.setTimer = (...args) => {
        clock.suspended = 61_000;
        unlinkSync(`${path}.part.lock`);
        writeFileSync(`${path}.part.lock`, "another's");
        return setTimer(...args);
      };
      assert.match((await assertRejects(open(path, clock), "StorageFailed")).message, lost);
      assert.equal(readFileSync(`${path}.part.journal`, "utf8"), journal);
      assert.equal(readFileSync(`${path}.part.lock`, "utf8"), "another's");
    }));
});

describe("moving a file to a new inode", () => {
  it("keeps its content, and removes the copy of an earlier attempt", () =>
    withOutput(async (path) => {
      writeFileSync(path, "content");
      writeFileSync(`${path}.copy`, "left behind");
      const { ino } = statSync(path);
      await moveToNewInode(path, held);
      assert.notEqual(statSync(path).ino, ino);
      assert.equal(readFileSync(path, "utf8"), "content");
      assert.deepEqual(readdirSync(join(path, "..")), ["out"]);
    }));

  it("does nothing when the file does not exist", () =>
    withOutput(async (path) => {
      await moveToNewInode(path, () => assert.fail("nothing is renamed"));
      assert.deepEqual(readdirSync(join(path, "..")), []);
    }));

  for (const [code, why] of [
    ["ENOSPC", "no space left on device"],
    ["EDQUOT", "disk quota exceeded"],
  ] as const) {
    it(`gives StorageFailed with the reason on ${code}, and keeps the file unchanged`, () =>
      withOutput(async (path) => {
        writeFileSync(path, "content");
        const full: typeof copyFile = async (_from, to) => {
          writeFileSync(String(to), "con");
          throw Object.assign(new Error("native"), { code });
        };
        const error = await assertRejects(moveToNewInode(path, held, full), "StorageFailed");
        assert.equal(
          error.message,
          `cannot copy ${path} out of reach of an earlier download: ${why}`,
        );
        assert.equal(readFileSync(path, "utf8"), "content");
        assert.deepEqual(readdirSync(join(path, "..")), ["out"]);
      }));
  }

  it("keeps file and copy when another process took the lock over meanwhile", () =>
    withOutput(async (path) => {
      writeFileSync(path, "content");
      const { ino } = statSync(path);
      await assertRejects(moveToNewInode(path, notHeld), "StorageFailed");
      assert.equal(statSync(path).ino, ino);
      assert.deepEqual(readdirSync(join(path, "..")).sort(), ["out", "out.copy"]);
    }));

  it("does not copy the target of a symbolic link", () =>
    withOutput(async (path) => {
      const victim = `${path}.victim`;
      writeFileSync(victim, "precious");
      symlinkSync(victim, path);
      await moveToNewInode(path, held);
      assert.equal(readFileSync(path, "utf8"), "");
      assert.equal(readFileSync(victim, "utf8"), "precious");
    }));

  it("fails when another process replaces the file meanwhile", () =>
    withOutput(async (path) => {
      writeFileSync(path, "content");
      const slow: typeof copyFile = async (from, to, mode) => {
        await copyFile(from, to, mode);
        unlinkSync(path);
        writeFileSync(path, "other");
      };
      const error = await assertRejects(moveToNewInode(path, held, slow), "StorageFailed");
      assert.match(error.message, /^cannot copy \S+out: replaced by another process meanwhile$/);
      assert.equal(readFileSync(path, "utf8"), "other");
      assert.deepEqual(readdirSync(join(path, "..")), ["out"]);
    }));
});

describe("overwriting a file in place", () => {
  const refused: typeof rename = () =>
    Promise.reject(Object.assign(new Error("native"), { code: "EBUSY" }));

  it("calls `beforeWrite` before each write, and stops when it rejects", () =>
    withOutput(async (path) => {
      mkdirSync(path);
      const [from, to] = [join(path, "from"), join(path, "to")];
      for (const allowed of [0, 1, 2, 3, 4]) {
        writeFileSync(from, "n".repeat(2 * 1024 * 1024));
        writeFileSync(to, "old");
        let calls = 0;
        const copied = replaceFile(from, to, refused, () =>
          calls++ < allowed ? held() : notHeld(),
        );
        // Called before the file is opened, before each MiB, and before the source is removed.
        if (allowed < 4) await assertRejects(copied, "StorageFailed");
        else await copied;
        const expected = allowed === 0 ? 3 : Math.min(2, allowed - 1) * 1024 * 1024;
        assert.deepEqual([statSync(to).size, existsSync(from)], [expected, allowed < 4]);
      }
    }));
});

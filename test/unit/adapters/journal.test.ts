/** Tests the journal of a download: parsing, order of writes, and closing of its file. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { type FileHandle, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Journal, type JournalOptions } from "../../../adapters/files/journal.ts";
import { openOwnFile } from "../../../adapters/files/own-file.ts";
import type { SinkLayout, SinkPiece } from "../../../src/task/sink.ts";
import { assertRejects } from "../../support/failures.ts";

const layout: SinkLayout = {
  taskId: "a1".repeat(32),
  kind: "standard",
  contentLength: 1000,
  pieceLength: 100,
  longestPiece: 100,
  start: 0,
  length: 1000,
  part: (number) => ({ number, position: 100 * number, length: 100 }),
};
const piece = (number: number): SinkPiece => ({ number, digest: `crc32:${number}`, crc32: number });
const lineOf = (number: number): string => JSON.stringify(piece(number));
const sha256 = (digit: string): string => `sha256:${digit.repeat(64)}`;

function headerWith(digest: string | null): string {
  const { taskId, kind, contentLength, pieceLength, start, length } = layout;
  return JSON.stringify({
    version: 2,
    taskId,
    kind,
    contentLength,
    pieceLength,
    start,
    length,
    digest,
  });
}

/** Runs a test with the path of a journal in a temporary directory. */
async function withPath(run: (path: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-journal-"));
  try {
    await run(join(directory, "out.part.journal"));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Opens files whose operations are recorded in `calls` and can be replaced. */
function noting(
  calls: string[],
  changes: Partial<
    Record<"stat" | "readFile" | "truncate" | "write", (number: number) => void>
  > = {},
  writesAtMost: number = Number.POSITIVE_INFINITY,
): NonNullable<JournalOptions["openFile"]> {
  return async (path) => {
    const handle = await openOwnFile(path);
    const note = (name: "stat" | "readFile" | "truncate" | "write", more = ""): void => {
      calls.push(`${name}${more}`);
      changes[name]?.(calls.length);
    };
    return {
      stat: async () => {
        note("stat");
        return handle.stat();
      },
      readFile: async () => {
        note("readFile");
        return handle.readFile();
      },
      truncate: async (length: number) => {
        note("truncate", ` ${length}`);
        await handle.truncate(length);
      },
      write: async (bytes: Uint8Array, from: number, length: number, position: number) => {
        note("write", ` at ${position}`);
        return handle.write(bytes, from, Math.min(length, writesAtMost), position);
      },
      close: async () => {
        calls.push("close");
        await handle.close();
      },
    } as unknown as FileHandle;
  };
}

/** Opens a journal, returns the numbers of the pieces in it, and closes it. */
async function foundAt(path: string, options: JournalOptions = {}): Promise<number[]> {
  const journal = await Journal.open(path, layout, options);
  await journal.close();
  return journal.found.map(({ number }) => number);
}

describe("a journal", () => {
  it("records pieces for the next download, in order of arrival", () =>
    withPath(async (path) => {
      const journal = await Journal.open(path, layout);
      assert.deepEqual([journal.found, journal.complete], [[], false]);
      await Promise.all([3, 1, 2].map((number) => journal.add(piece(number))));
      await journal.close();
      assert.equal(
        readFileSync(path, "utf8"),
        `${[headerWith(null), lineOf(3), lineOf(1), lineOf(2), ""].join("\n")}`,
      );
      assert.deepEqual(await foundAt(path), [3, 1, 2]);
      const again = await Journal.open(path, layout);
      await again.end();
      await again.close();
      const complete = await Journal.open(path, layout);
      assert.equal(complete.complete, true);
      await complete.close();
    }));

  it("is written completely when the system accepts a few bytes at a time", () =>
    withPath(async (path) => {
      const journal = await Journal.open(path, layout, { openFile: noting([], {}, 7) });
      await Promise.all([journal.add(piece(12)), journal.add(piece(345))]);
      await journal.end();
      await journal.close();
      assert.equal(
        readFileSync(path, "utf8"),
        `${headerWith(null)}\n${lineOf(12)}\n${lineOf(345)}\n{"complete":true}\n`,
      );
    }));

  it("overwrites a line that was written only in part", () =>
    withPath(async (path) => {
      let full = false;
      const write = (): void => {
        if (full) throw Object.assign(new Error("native"), { code: "ENOSPC" });
      };
      const journal = await Journal.open(path, layout, { openFile: noting([], { write }) });
      await journal.add(piece(1));
      full = true;
      const error = await assertRejects(journal.add(piece(2)), "StorageFailed");
      assert.match(error.message, /^cannot write the journal \S+: no space left on device/);
      full = false;
      await journal.add(piece(3));
      await journal.close();
      assert.deepEqual(await foundAt(path), [1, 3]);
    }));

  it("is read up to its length limit, and restarted if it is longer", () =>
    withPath(async (path) => {
      const text = `${headerWith(null)}\n${lineOf(1)}\n`;
      writeFileSync(path, text);
      assert.deepEqual(await foundAt(path, { maxLength: text.length }), [1]);
      const calls: string[] = [];
      assert.deepEqual(
        await foundAt(path, { maxLength: text.length - 1, openFile: noting(calls) }),
        [],
      );
      assert.ok(!calls.includes("readFile"), "it is not even read");
      assert.equal(readFileSync(path, "utf8"), `${headerWith(null)}\n`);
    }));

  it("truncates an incomplete last line before it writes a shorter one", () =>
    withPath(async (path) => {
      const whole = `${headerWith(null)}\n${lineOf(1)}\n`;
      writeFileSync(
        path,
        `${whole}{"number":22222222,"digest":"crc32:1234567890","crc32":1234567890,"more":"${"x".repeat(200)}`,
      );
      const calls: string[] = [];
      const journal = await Journal.open(path, layout, { openFile: noting(calls) });
      assert.deepEqual(calls, ["stat", "readFile", `truncate ${whole.length}`]);
      await journal.add(piece(2));
      await journal.close();
      assert.equal(readFileSync(path, "utf8"), `${whole}${lineOf(2)}\n`);
    }));

  it("ignores a last line without a line feed, even if it is complete JSON", () =>
    withPath(async (path) => {
      for (const unfinished of [lineOf(2), '{"complete":true}']) {
        writeFileSync(path, `${headerWith(null)}\n${lineOf(1)}\n${unfinished}`);
        const journal = await Journal.open(path, layout);
        assert.deepEqual([journal.found, journal.complete], [[piece(1)], false]);
        await journal.close();
        assert.equal(readFileSync(path, "utf8"), `${headerWith(null)}\n${lineOf(1)}\n`);
      }
    }));

  it("with an incomplete header is restarted", () =>
    withPath(async (path) => {
      for (const text of ["", headerWith(null), `${headerWith(null)}${lineOf(1)}`]) {
        writeFileSync(path, text);
        assert.deepEqual(await foundAt(path), []);
        assert.equal(readFileSync(path, "utf8"), `${headerWith(null)}\n`);
      }
    }));

  it("keeps its header when a later download restarts it", () =>
    withPath(async (path) => {
      writeFileSync(path, `${headerWith(null)}\n${lineOf(1)}\n${lineOf(2)}\n`);
      const calls: string[] = [];
      const journal = await Journal.open(path, layout, { openFile: noting(calls) });
      calls.length = 0;
      await journal.restart([piece(2)]);
      await journal.close();
      const first = headerWith(null).length + 1;
      assert.deepEqual(calls, [`truncate ${first}`, `write at ${first}`, "close"]);
      assert.equal(readFileSync(path, "utf8"), `${headerWith(null)}\n${lineOf(2)}\n`);
    }));

  it("gives StorageFailed with the reason when the disk is full, at every write", () =>
    withPath(async (path) => {
      let full = false;
      const fail = (): void => {
        if (full) throw Object.assign(new Error("native"), { code: "ENOSPC" });
      };
      const openFile = noting([], { write: fail, truncate: fail });
      const journal = await Journal.open(path, layout, { openFile });
      full = true;
      for (const attempt of [
        () => journal.add(piece(1)),
        () => journal.restart([]),
        () => journal.end(),
      ]) {
        const error = await assertRejects(attempt(), "StorageFailed");
        assert.equal(error.message, `cannot write the journal ${path}: no space left on device`);
      }
      await journal.close();
    }));

  it("is emptied before a new header is written, so a kill leaves no pieces of other content", () =>
    withPath(async (path) => {
      writeFileSync(path, `{"another":"${"x".repeat(500)}"}\n${lineOf(1)}\n${lineOf(2)}\n`);
      const calls: string[] = [];
      assert.deepEqual(await foundAt(path, { openFile: noting(calls) }), []);
      assert.deepEqual(calls, ["stat", "readFile", "truncate 0", "write at 0", "close"]);
      assert.equal(readFileSync(path, "utf8"), `${headerWith(null)}\n`);
    }));

  it("leaves no file open when opening fails at any step", () =>
    withPath(async (path) => {
      for (const name of ["stat", "readFile", "truncate", "write"] as const) {
        const calls: string[] = [];
        const fail = (): void => {
          throw Object.assign(new Error("native"), { code: "EIO" });
        };
        writeFileSync(path, "of nothing\n");
        const error = await assertRejects(
          Journal.open(path, layout, { openFile: noting(calls, { [name]: fail }) }),
          "StorageFailed",
        );
        assert.match(
          error.message,
          /^cannot (open|write) the journal \S+out\.part\.journal: device I\/O error/,
        );
        assert.deepEqual(calls.filter((call) => call === "close").length, 1, name);
      }
    }));

  it("removes the other pieces on restart before it records new ones", () =>
    withPath(async (path) => {
      const calls: string[] = [];
      const journal = await Journal.open(path, layout, { openFile: noting(calls) });
      const first = headerWith(null).length + 1;
      void journal.add(piece(1));
      void journal.add(piece(2));
      calls.length = 0;
      await journal.restart([piece(2)]);
      const cut = calls.indexOf(`truncate ${first}`);
      assert.ok(cut >= 0 && calls[cut + 1] === `write at ${first}`, calls.join(", "));
      await journal.add(piece(7));
      await journal.close();
      assert.equal(readFileSync(path, "utf8"), `${headerWith(null)}\n${lineOf(2)}\n${lineOf(7)}\n`);
    }));

  it("of an earlier version is restarted", () =>
    withPath(async (path) => {
      for (const first of [
        headerWith(null).replace('"version":2', '"version":1'),
        headerWith(null)
          .replace('"version":2', '"version":1')
          .replace(/,"digest":null/, ""),
        headerWith(null).replace(/,"digest":null/, ""),
      ]) {
        writeFileSync(path, `${first}\n${lineOf(1)}\n`);
        assert.deepEqual(await foundAt(path), []);
      }
    }));
});

describe("the digest of the whole in a journal", () => {
  const cases: [recorded: string | null, given: string | undefined, resumes: boolean][] = [
    [null, undefined, true],
    [null, sha256("a"), true],
    [sha256("a"), undefined, true],
    [sha256("a"), sha256("a"), true],
    [sha256("A"), sha256("a"), true],
    [sha256("a"), sha256("b"), false],
    ["crc32:1", "crc32:1", true],
    ["crc32:1", "crc32:2", false],
    // Digests of different algorithms cannot be compared. The final verification decides.
    ["crc32:1", sha256("a"), true],
    ["md5:1", sha256("a"), false],
    ["", undefined, false],
  ];
  for (const [recorded, given, resumes] of cases) {
    it(`${recorded} ${resumes ? "matches" : "contradicts"} ${given}`, () =>
      withPath(async (path) => {
        const text = `${headerWith(recorded)}\n${lineOf(1)}\n`;
        writeFileSync(path, text);
        assert.deepEqual(await foundAt(path, { digest: given }), resumes ? [1] : []);
        assert.equal(readFileSync(path, "utf8"), resumes ? text : `${headerWith(given ?? null)}\n`);
      }));
  }
});

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { appendFileSync, truncateSync } from "node:fs";
import {
  mkdir,
  mkdtemp,
  open,
  rename,
  rm,
  symlink,
  truncate,
  utimes,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { FilePieceStore, filePieceStoreWith } from "../../../adapters/files/store.ts";
import { nativeHashers } from "../../../adapters/shared/native-hashers.ts";
import { type HasherFactory, portableHashers } from "../../../src/digest/hasher.ts";
import type { VortexError } from "../../../src/errors.ts";
import type { StoredPiece, StoredTask } from "../../../src/store/store.ts";

const KIBI = 1024;
const MEBI = KIBI * KIBI;
const utf8 = new TextEncoder();

async function inTempDir(run: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "vortex-peer-file-store-"));
  try {
    await run(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** Returns reproducible pseudo-random bytes. */
function noise(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 1;
  for (let index = 0; index < length; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}

async function chunksOf(piece: StoredPiece | undefined, range?: { start: number; end?: number }) {
  assert.ok(piece !== undefined);
  const chunks: Uint8Array[] = [];
  for await (const chunk of piece.read(range)) chunks.push(chunk);
  return chunks;
}

/** Returns the bytes that a reader received before its error, and the error. */
async function readUntilFailure(piece: StoredPiece, afterFirst?: () => Promise<void>) {
  let bytes = 0;
  try {
    for await (const chunk of piece.read()) {
      if (bytes === 0) await afterFirst?.();
      bytes += chunk.length;
    }
  } catch (error) {
    return { bytes, error: error as VortexError };
  }
  return { bytes, error: undefined };
}

const standard = (task: StoredTask, number: number) =>
  ({ taskId: task.taskId, number, kind: "standard" }) as const;

describe("FilePieceStore", () => {
  it("serves a file as a task, with digests, extents and a shorter last piece", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "nine");
      await writeFile(path, "123456789");
      await utimes(path, 1_700_000_000, 1_700_000_000);
      await using store = new FilePieceStore();
      const task = await store.addFile(path, { pieceLength: 4 });
      const sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
      assert.equal(task.taskId, sha256);
      assert.equal(task.digest, `sha256:${sha256}`);
      assert.deepEqual(
        [task.kind, task.contentLength, task.pieceLength, task.createdAtSeconds],
        ["standard", 9, 4, 1_700_000_000n],
      );
      const common = {
        parentId: "",
        trafficType: 2,
        costSeconds: 0n,
        createdAtSeconds: 1_700_000_000n,
      };
      // CRC-32 of "1234", "5678" and "9" from zlib of Python.
      const expected = [
        { number: 0, offset: 0n, length: 4n, digest: "crc32:2615402659", ...common },
        { number: 1, offset: 4n, length: 4n, digest: "crc32:2119325191", ...common },
        { number: 2, offset: 8n, length: 1n, digest: "crc32:2366072709", ...common },
      ];
      assert.deepEqual([...task.pieces()], expected);
      assert.equal(await store.getTask(sha256), task);
      for (const [number, text] of ["1234", "5678", "9"].entries()) {
        const piece = await store.getPiece(standard(task, number));
        assert.deepEqual(piece?.metadata, expected[number]);
        assert.deepEqual(Buffer.concat(await chunksOf(piece)).toString(), text);
      }
    }));

  it("chooses the piece length like dfdaemon, and a single piece has the digest of the content", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "nine");
      await writeFile(path, "123456789");
      await using store = new FilePieceStore();
      const task = await store.addFile(path);
      assert.equal(task.pieceLength, 4 * MEBI);
      // The check value of CRC-32.
      assert.deepEqual(
        [...task.pieces()].map(({ digest }) => digest),
        [`crc32:${0xcbf43926}`],
      );
    }));

  it("gives the same index with native and portable hashes", () =>
    inTempDir(async (dir) => {
      const content = noise(3 * MEBI + 17);
      const path = join(dir, "noise");
      await writeFile(path, content);
      await using store = filePieceStoreWith(nativeHashers);
      await using portable = filePieceStoreWith(portableHashers);
      const pieceLength = MEBI + 6;
      const [one, other] = [
        await store.addFile(path, { pieceLength }),
        await portable.addFile(path, { pieceLength }),
      ];
      assert.equal(one.taskId, createHash("sha256").update(content).digest("hex"));
      assert.equal(one.taskId, other.taskId);
      assert.equal([...one.pieces()].length, 3);
      assert.deepEqual([...one.pieces()], [...other.pieces()]);
    }));

  it("reads pieces and ranges in chunks that are not reused", () =>
    inTempDir(async (dir) => {
      const content = noise(3 * MEBI + 17);
      const path = join(dir, "noise");
      await writeFile(path, content);
      await using store = new FilePieceStore();
      const pieceLength = 2 * MEBI + 1;
      const task = await store.addFile(path, { pieceLength });
      const first = await store.getPiece(standard(task, 0));
      const chunks = await chunksOf(first);
      assert.ok(chunks.every((chunk) => chunk.length > 0 && chunk.length <= MEBI));
      assert.equal(
        new Set(chunks.map((chunk) => chunk.buffer)).size,
        chunks.length,
        "no buffer is used twice",
      );
      assert.ok(Buffer.concat(chunks).equals(content.subarray(0, pieceLength)));
      const second = await store.getPiece(standard(task, 1));
      assert.ok(Buffer.concat(await chunksOf(second)).equals(content.subarray(pieceLength)));
      for (const [start, end] of [
        [0, 1],
        [700_000, 1_900_000],
        [pieceLength - 1, pieceLength],
        [5, 5],
      ] as const) {
        const range = Buffer.concat(await chunksOf(first, { start, end }));
        assert.ok(range.equals(content.subarray(start, end)), `${start} to ${end}`);
      }
      const openEnded = Buffer.concat(await chunksOf(second, { start: 10 }));
      assert.ok(openEnded.equals(content.subarray(pieceLength + 10)));
      await assert.rejects(chunksOf(first, { start: 0, end: pieceLength + 1 }), {
        code: "InvalidArgument",
      });
    }));

  it("reads at most one chunk ahead of its reader", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      await writeFile(path, noise(4 * MEBI));
      let hashed = 0;
      const counting: HasherFactory = (algorithm) => {
        const hasher = nativeHashers(algorithm);
        const update = (chunk: Uint8Array): void => {
          if (algorithm === "crc32") hashed += chunk.length;
          hasher.update(chunk);
        };
        return { update, encode: () => hasher.encode() };
      };
      await using store = filePieceStoreWith(counting);
      const task = await store.addFile(path);
      assert.equal(hashed, 4 * MEBI);
      const piece = await store.getPiece(standard(task, 0));
      assert.ok(piece !== undefined);
      hashed = 0;
      for await (const chunk of piece.read()) {
        assert.ok(hashed <= 2 * chunk.length, `${hashed} bytes read for ${chunk.length}`);
        break;
      }
    }));

  it("returns undefined for unknown tasks, piece numbers and kinds, whatever their form", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "file");
      await writeFile(path, "abc");
      await using store = new FilePieceStore();
      const { taskId } = await store.addFile(path, { kind: "cache" });
      assert.ok((await store.getPiece({ taskId, number: 0, kind: "cache" })) !== undefined);
      assert.equal(await store.getPiece({ taskId, number: 0, kind: "standard" }), undefined);
      assert.equal(await store.getPiece({ taskId, number: 1, kind: "cache" }), undefined);
      assert.equal(await store.getPiece({ taskId, number: 0xffffffff, kind: "cache" }), undefined);
      for (const other of [path, "../file", "file", "__proto__", "", taskId.toUpperCase()]) {
        assert.equal(await store.getPiece({ taskId: other, number: 0, kind: "cache" }), undefined);
        assert.equal(await store.getTask(other), undefined);
      }
    }));

  it("serves an empty file as a task without pieces", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "empty");
      await writeFile(path, "");
      await using store = new FilePieceStore();
      const task = await store.addFile(path);
      assert.equal(task.taskId, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
      assert.deepEqual([task.contentLength, [...task.pieces()]], [0, []]);
      assert.equal(await store.getPiece(standard(task, 0)), undefined);
    }));

  it("resolves a symbolic link when the file is added, and serves that file even if its paths change", () =>
    inTempDir(async (dir) => {
      const [file, link] = [join(dir, "file"), join(dir, "link")];
      await writeFile(file, "the file");
      await symlink(file, link);
      await using store = new FilePieceStore();
      const task = await store.addFile(link);
      await rm(link);
      await rename(file, join(dir, "moved"));
      await writeFile(file, "another one");
      const piece = await store.getPiece(standard(task, 0));
      assert.equal(Buffer.concat(await chunksOf(piece)).toString(), "the file");
    }));

  it("rejects a path that is not a readable file, with the reason", () =>
    inTempDir(async (dir) => {
      await mkdir(join(dir, "sub"));
      await symlink(join(dir, "nowhere"), join(dir, "broken"));
      await using store = new FilePieceStore();
      await assert.rejects(store.addFile(join(dir, "sub")), {
        code: "StorageFailed",
        message: `${join(dir, "sub")}: expected a file, got a directory`,
      });
      await assert.rejects(store.addFile("/dev/null"), {
        code: "StorageFailed",
        message: /: expected a file, got a device/,
      });
      for (const path of [join(dir, "missing"), join(dir, "broken")]) {
        await assert.rejects(store.addFile(path), (error: VortexError) => {
          assert.equal(error.code, "StorageFailed");
          assert.match(error.message, /^cannot open \S+: no such file or directory$/);
          assert.equal((error.cause as { code?: string }).code, "ENOENT");
          return true;
        });
      }
    }));

  it("rejects options out of range, and a different task with an id that it already serves", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "file");
      await writeFile(path, "abc");
      await using store = new FilePieceStore();
      for (const pieceLength of [0, -1, 1.5, 64 * MEBI + 1, Number.NaN]) {
        await assert.rejects(store.addFile(path, { pieceLength }), { code: "InvalidArgument" });
      }
      for (const taskId of [
        "",
        "short",
        "x".repeat(65),
        `${"x".repeat(63)} `,
        `${"x".repeat(63)}\n`,
        "é".repeat(32),
      ]) {
        await assert.rejects(store.addFile(path, { taskId }), { code: "InvalidArgument" });
      }
      const taskId = "t".repeat(64);
      assert.equal((await store.addFile(path, { taskId })).taskId, taskId);
      const other = join(dir, "other");
      await writeFile(other, "abd");
      for (const [from, changes] of [
        [other, {}],
        [path, { kind: "cache" }],
        [path, { pieceLength: 2 }],
      ] as const) {
        await assert.rejects(store.addFile(from, { taskId, ...changes }), {
          code: "InvalidArgument",
          message: `${from}: expected the content, kind and piece length of ${path}, which serves task ${taskId}, got others`,
        });
      }
      const piece = await store.getPiece({ taskId, number: 0, kind: "standard" });
      assert.deepEqual(await chunksOf(piece), [utf8.encode("abc")]);
    }));

  it("serves files of the same content as one task, while at least one of them is unchanged", () =>
    inTempDir(async (dir) => {
      const paths = ["one", "two", "three"].map((name) => join(dir, name));
      await using store = new FilePieceStore();
      const tasks: StoredTask[] = [];
      for (const path of paths) {
        await writeFile(path, "abc");
        tasks.push(await store.addFile(path));
      }
      const [task] = tasks;
      assert.ok(task !== undefined);
      assert.deepEqual(new Set(tasks.map(({ taskId }) => taskId)), new Set([task.taskId]));
      for (const path of paths) {
        const piece = await store.getPiece(standard(task, 0));
        assert.deepEqual(await chunksOf(piece), [utf8.encode("abc")]);
        await writeFile(path, "changed");
      }
      const [first = ""] = paths;
      await assert.rejects(store.getPiece(standard(task, 0)), {
        code: "StorageFailed",
        message: `${first} changed after indexing: expected 3 bytes, got 7`,
      });
      assert.equal(await store.deleteTask(task.taskId), true);
      assert.equal(await store.getTask(task.taskId), undefined);
      assert.equal(await store.deleteTask(task.taskId), false);
      assert.equal((await store.addFile(first)).contentLength, 7);
    }));

  it("reports the progress of indexing, and aborts it by its signal", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      const total = 2 * MEBI + 3;
      await writeFile(path, noise(total));
      await using store = new FilePieceStore();
      const seen: [number, number][] = [];
      await store.addFile(path, { onProgress: (...progress) => seen.push(progress) });
      const reads = [0.5 * MEBI, MEBI, 1.5 * MEBI, 2 * MEBI, total];
      assert.deepEqual(
        seen,
        reads.map((read) => [read, total]),
      );

      const controller = new AbortController();
      const steps: number[] = [];
      const onProgress = (indexed: number): void => {
        steps.push(indexed);
        controller.abort(new Error("enough"));
      };
      const adding = store.addFile(path, {
        taskId: "t".repeat(64),
        signal: controller.signal,
        onProgress,
      });
      await assert.rejects(adding, (error: VortexError) => {
        assert.equal(error.code, "Aborted");
        assert.equal((error.cause as Error).message, "enough");
        return true;
      });
      assert.deepEqual(steps, [0.5 * MEBI]);
      assert.equal(await store.getTask("t".repeat(64)), undefined);
    }));

  it("rejects a file that changes during indexing", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      await using store = new FilePieceStore();
      await writeFile(path, noise(2 * MEBI));
      await assert.rejects(
        store.addFile(path, { onProgress: () => appendFileSync(path, "more") }),
        {
          code: "StorageFailed",
          message: /changed during indexing: /,
        },
      );
      await writeFile(path, noise(2 * MEBI));
      await assert.rejects(
        store.addFile(path, { onProgress: () => truncateSync(path, MEBI + 10) }),
        {
          code: "StorageFailed",
          message: /ends at byte/,
        },
      );
    }));

  it("rejects reads of a file that was truncated, extended or written to after indexing", () =>
    inTempDir(async (dir) => {
      const changes: [name: string, change: (path: string) => Promise<void>, message: RegExp][] = [
        [
          "truncated",
          (path) => truncate(path, 10),
          /changed after indexing: expected 3000 bytes, got 10/,
        ],
        [
          "grown",
          (path) => writeFile(path, "more", { flag: "a" }),
          /expected 3000 bytes, got 3004/,
        ],
        ["touched", (path) => utimes(path, 1, 1), /modification time differs/],
      ];
      await using store = new FilePieceStore();
      for (const [name, change, message] of changes) {
        const path = join(dir, name);
        await writeFile(path, `${name}:`.padEnd(3000));
        const task = await store.addFile(path, { pieceLength: 1000 });
        await change(path);
        await assert.rejects(store.getPiece(standard(task, 0)), { code: "StorageFailed", message });
      }
    }));

  it("never completes a piece of a file that is truncated during the read", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      await writeFile(path, noise(4 * MEBI));
      await using store = new FilePieceStore();
      const task = await store.addFile(path);
      const piece = await store.getPiece(standard(task, 0));
      assert.ok(piece !== undefined);
      const { bytes, error } = await readUntilFailure(piece, () => truncate(path, 3 * MEBI + 1));
      assert.equal(error?.code, "StorageFailed");
      assert.match(error.message, /ends at byte 3145729/);
      assert.ok(bytes > 0 && bytes < 4 * MEBI);
    }));

  it("never completes a piece that is overwritten during the read, even within one clock tick", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      for (const restoreTime of [false, true]) {
        await writeFile(path, noise(4 * MEBI));
        await utimes(path, 1_700_000_000, 1_700_000_000);
        await using store = new FilePieceStore();
        const task = await store.addFile(path);
        const piece = await store.getPiece(standard(task, 0));
        assert.ok(piece !== undefined);
        const overwrite = async (): Promise<void> => {
          const handle = await open(path, "r+");
          await handle.write(utf8.encode("other bytes"), 0, 11, 3 * MEBI);
          await handle.close();
          // Simulates a write in the same clock tick as the one before.
          if (restoreTime) await utimes(path, 1_700_000_000, 1_700_000_000);
        };
        const { bytes, error } = await readUntilFailure(piece, overwrite);
        assert.equal(error?.code, "StorageFailed");
        assert.match(
          error.message,
          restoreTime ? /expected CRC-32 .*, got [0-9]+$/ : /modification time differs/,
        );
        assert.ok(bytes > 0 && bytes < 4 * MEBI);
        // The piece before the change is rejected too, or served correctly.
        if (restoreTime) assert.equal((await readUntilFailure(piece)).error?.code, "StorageFailed");
        else await assert.rejects(store.getPiece(standard(task, 0)), { code: "StorageFailed" });
      }
    }));

  it("never yields an overwritten byte, even for a range of a piece and within one clock tick", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      const content = noise(3 * MEBI);
      await writeFile(path, content);
      await utimes(path, 1_700_000_000, 1_700_000_000);
      await using store = new FilePieceStore();
      const task = await store.addFile(path);
      const piece = await store.getPiece(standard(task, 0));
      const handle = await open(path, "r+");
      await handle.write(utf8.encode("other bytes"), 0, 11, 2 * MEBI);
      await handle.close();
      await utimes(path, 1_700_000_000, 1_700_000_000);
      // Applies to a range without changed bytes too, if it is in the same chunk.
      for (const start of [2 * MEBI, 2 * MEBI + 5, 2 * MEBI + 11]) {
        await assert.rejects(chunksOf(piece, { start, end: start + 20 }), {
          code: "StorageFailed",
          message:
            /changed after indexing: expected CRC-32 \d+ for 524288 bytes at 2097152, got \d+$/,
        });
      }
      const before = Buffer.concat(await chunksOf(piece, { start: MEBI - 7, end: 2 * MEBI }));
      assert.ok(before.equals(content.subarray(MEBI - 7, 2 * MEBI)));
    }));

  it("serves many concurrent readers of one file", () =>
    inTempDir(async (dir) => {
      const content = noise(3 * MEBI);
      const path = join(dir, "noise");
      await writeFile(path, content);
      await using store = new FilePieceStore();
      const pieceLength = 300 * KIBI;
      const task = await store.addFile(path, { pieceLength });
      const pieces = [...task.pieces()];
      const read = await Promise.all(
        [...pieces, ...pieces].map(async ({ number, offset, length }) => {
          const bytes = Buffer.concat(await chunksOf(await store.getPiece(standard(task, number))));
          return bytes.equals(content.subarray(Number(offset), Number(offset + length)));
        }),
      );
      assert.deepEqual(new Set(read), new Set([true]));
    }));

  it("deletes a task, fails its readers, and accepts the file again", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      await writeFile(path, noise(2 * MEBI));
      await using store = new FilePieceStore();
      const task = await store.addFile(path);
      const piece = await store.getPiece(standard(task, 0));
      assert.ok(piece !== undefined);
      const { error } = await readUntilFailure(piece, async () => {
        assert.equal(await store.deleteTask(task.taskId), true);
      });
      assert.equal(error?.code, "Closed");
      assert.equal(await store.deleteTask(task.taskId), false);
      assert.equal(await store.getTask(task.taskId), undefined);
      assert.equal(await store.getPiece(standard(task, 0)), undefined);
      await writeFile(path, "changed");
      const again = await store.addFile(path);
      assert.equal(
        Buffer.concat(await chunksOf(await store.getPiece(standard(again, 0)))).toString(),
        "changed",
      );
    }));

  it("closes its files and rejects calls after close", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "noise");
      await writeFile(path, noise(MEBI));
      const store = new FilePieceStore();
      const task = await store.addFile(path);
      const piece = await store.getPiece(standard(task, 0));
      await store.close();
      await store.close();
      await assert.rejects(chunksOf(piece), { code: "Closed" });
      assert.equal(await store.getTask(task.taskId), undefined);
      await assert.rejects(store.addFile(path), { code: "Closed" });

      const late = new FilePieceStore();
      const adding = late.addFile(path, { onProgress: () => void late.close() });
      await assert.rejects(adding, { code: "Closed" });
    }));
});

describe("nativeHashers", () => {
  it("equals the portable hashers, for whole and split input", () => {
    const content = noise(100_001);
    for (const algorithm of ["crc32", "sha256", "sha512"] as const) {
      const [native, portable] = [nativeHashers(algorithm), portableHashers(algorithm)];
      assert.equal(native.encode(), portable.encode(), `${algorithm} of nothing`);
      for (let at = 0; at < content.length; at += 33_333) {
        native.update(content.subarray(at, at + 33_333));
        portable.update(content.subarray(at, at + 33_333));
        assert.equal(native.encode(), portable.encode(), `${algorithm} up to ${at}`);
      }
    }
  });
});

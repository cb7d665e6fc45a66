/** What an earlier process, or a broken disk, may have left of a download to a file. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { fileSink } from "../../adapters/files/sink.ts";
import { VortexError } from "../../src/errors.ts";
import { fakeRuntime } from "../support/fake-clock.ts";
import { seededBytes } from "../support/random.ts";
import { FakeParents, fetcherOf, honest, taskSettings } from "../support/task-parents.ts";

const PIECE = 512;
const PIECES = 7;
const content = seededBytes(5, (PIECES - 1) * PIECE + 77);

/** Bytes to change in a file, each as a place and a value, a length to cut it to, and what is added. */
interface Damage {
  readonly changes: (readonly [at: number, to: number])[];
  readonly cut: number | null;
  /** Zeros behind the end. */
  readonly more: number;
}

const none: Damage = { changes: [], cut: null, more: 0 };
const damage: fc.Arbitrary<Damage> = fc.oneof(
  fc.constant(none),
  fc.record({
    changes: fc.array(fc.tuple(fc.nat(), fc.nat({ max: 0xff })), { maxLength: 5 }),
    cut: fc.option(fc.nat(), { freq: 3 }),
    more: fc.oneof(fc.constant(0), fc.nat({ max: 9 * PIECE })),
  }),
);
const line = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.constantFrom('{"complete":true}', "null", "[]", "{}"),
  fc
    .record({
      number: fc.oneof(fc.integer({ min: -1, max: 9 }), fc.double()),
      digest: fc.oneof(
        fc.nat().map((value) => `crc32:${value}`),
        fc.string(),
      ),
      crc32: fc.oneof(fc.nat(), fc.double()),
    })
    .map((piece) => JSON.stringify(piece)),
);

/**
 * Whatever the journal and the unfinished file hold, the file that is reported complete is right; and when they are as they were
 * left, no piece is fetched twice.
 */
export const journal: fc.IAsyncProperty<[number, Damage, Damage, string[]]> = fc.asyncProperty(
  fc.nat({ max: 6 }),
  damage,
  damage,
  fc.oneof(fc.constant<string[]>([]), fc.array(line, { maxLength: 4 })),
  async (pieces, toFile, toJournal, lines) => {
    const directory = await mkdtemp(join(tmpdir(), "vortex-fuzz-"));
    const path = join(directory, "file");
    try {
      const first = await download(path, pieces);
      assert.equal(first.error?.code, "Internal");
      // A line for the task, and one for each piece.
      const noted = (await readFile(`${path}.part.journal`, "utf8").catch(() => "\n")).split("\n").length - 2;
      await spoil(`${path}.part`, toFile);
      await spoil(`${path}.part.journal`, toJournal, lines);
      const second = await download(path, Number.POSITIVE_INFINITY);
      assert.equal(second.error, undefined);
      const untouched = toFile === none && toJournal === none && lines.length === 0;
      if (untouched) assert.equal(second.asked, PIECES - noted, "pieces asked for");
      assert.equal(Buffer.compare(await readFile(path), content), 0, "the file has other bytes");
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
);

/** Fetches the task, from a parent that fails it after so many pieces; tells what it failed with, and how many it was asked for. */
async function download(
  path: string,
  pieces: number,
): Promise<{ readonly error: VortexError | undefined; readonly asked: number }> {
  const runtime = fakeRuntime();
  const behaviour: ReturnType<typeof honest> = (request) =>
    request.number < pieces ? honest()(request) : new VortexError("Internal", "the power is gone");
  const parents = new FakeParents(content, PIECE, { "a:1": behaviour });
  const { fetcher, request } = fetcherOf(parents, ["a:1"], taskSettings({ concurrentPieceCount: 2 }, runtime));
  const { done } = fetcher.downloadTask(request, { to: fileSink(path) });
  await runtime.clock.advanceUntil(done, 100_000);
  const error = await done.then(
    () => undefined,
    (failure: unknown) => {
      if (failure instanceof VortexError) return failure;
      throw failure;
    },
  );
  return { error, asked: parents.asked.length };
}

async function spoil(path: string, { changes, cut, more }: Damage, lines: readonly string[] = []): Promise<void> {
  const bytes = await readFile(path).catch(() => Buffer.alloc(0));
  for (const [at, to] of changes) if (bytes.length > 0) bytes[at % bytes.length] = to;
  const kept = cut === null ? bytes : bytes.subarray(0, cut % (bytes.length + 1));
  await writeFile(
    path,
    Buffer.concat([kept, Buffer.alloc(more), Buffer.from(lines.map((each) => `${each}\n`).join(""))]),
  );
}

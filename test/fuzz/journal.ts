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
const content = seededBytes(5, 6 * PIECE + 77);

/** Bytes to change in a file, each as a place and a value, and a length to cut it to. */
interface Damage {
  readonly changes: (readonly [at: number, to: number])[];
  readonly cut: number | null;
}

const damage: fc.Arbitrary<Damage> = fc.record({
  changes: fc.array(fc.tuple(fc.nat(), fc.nat({ max: 0xff })), { maxLength: 5 }),
  cut: fc.option(fc.nat(), { freq: 3 }),
});
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

/** Whatever the journal and the unfinished file hold, the file that is reported complete is right. */
export const journal: fc.IAsyncProperty<[number, Damage, Damage, string[]]> = fc.asyncProperty(
  fc.nat({ max: 6 }),
  damage,
  damage,
  fc.array(line, { maxLength: 4 }),
  async (pieces, toFile, toJournal, lines) => {
    const directory = await mkdtemp(join(tmpdir(), "vortex-fuzz-"));
    const path = join(directory, "file");
    try {
      const first = await download(path, pieces);
      assert.equal(first?.code, "Internal");
      await spoil(`${path}.part`, toFile);
      await spoil(`${path}.part.journal`, toJournal, lines);
      const error = await download(path, Number.POSITIVE_INFINITY);
      assert.equal(error, undefined);
      assert.equal(Buffer.compare(await readFile(path), content), 0, "the file has other bytes");
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
);

/** Fetches the task, from a parent that fails it after so many pieces; resolves to what it failed with. */
async function download(path: string, pieces: number): Promise<VortexError | undefined> {
  const runtime = fakeRuntime();
  const behaviour: ReturnType<typeof honest> = (request) =>
    request.number < pieces ? honest()(request) : new VortexError("Internal", "the power is gone");
  const parents = new FakeParents(content, PIECE, { "a:1": behaviour });
  const { fetcher, request } = fetcherOf(parents, ["a:1"], taskSettings({ concurrentPieceCount: 2 }, runtime));
  const { done } = fetcher.downloadTask(request, { to: fileSink(path) });
  await runtime.clock.advanceUntil(done, 100_000);
  return done.then(
    () => undefined,
    (error: unknown) => {
      if (error instanceof VortexError) return error;
      throw error;
    },
  );
}

async function spoil(path: string, { changes, cut }: Damage, lines: readonly string[] = []): Promise<void> {
  const bytes = await readFile(path).catch(() => Buffer.alloc(0));
  for (const [at, to] of changes) if (bytes.length > 0) bytes[at % bytes.length] = to;
  const kept = cut === null ? bytes : bytes.subarray(0, cut % (bytes.length + 1));
  await writeFile(path, Buffer.concat([kept, Buffer.from(lines.map((each) => `${each}\n`).join(""))]));
}

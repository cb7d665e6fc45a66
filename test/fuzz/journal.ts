/**
 * Fuzz property of file downloads: consecutive downloads to one file, with damage to the files in
 * between. Each download is checked against `journal-model.ts`.
 */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { fileSink } from "../../adapters/files/sink.ts";
import { type ErrorCode, VortexError } from "../../src/errors.ts";
import { TaskFetcher } from "../../src/task/fetcher.ts";
import type { TaskDownload, TaskReport } from "../../src/task/task.ts";
import { FakeParents, honest, taskSettings } from "../support/task-parents.ts";
import { damages, foreignLock, obstacles } from "./journal-leftovers.ts";
import {
  COMPLETE,
  type Expectation,
  expectationOf,
  type Files,
  type Plan,
  type Task,
  taskOf,
} from "./journal-model.ts";

const CONTENT_LENGTH = 2900;
/** Piece lengths. In the two lists, pieces 0, 3 and 4 have the same extents. */
const pieceLengths = [512, 400, [300, 700, 200, 900], [300, 200, 700, 900]];
/** Ranges; some share a length or a start. The whole content has a digest only without a range. */
const ranges = [
  ...[undefined, undefined, undefined],
  { start: 400, end: 1900 },
  { start: 912, end: 2412 },
  { start: 400, end: 1424 },
  { start: 0, end: 1024 },
  { start: 700, end: 700 },
];

const plans = {
  task: fc.nat({ max: 1 }),
  content: fc.nat({ max: 1 }),
  kind: fc.constantFrom("standard" as const, "cache" as const),
  contentLength: fc.constantFrom(CONTENT_LENGTH, CONTENT_LENGTH - 400),
  pieceLengths: fc.constantFrom(...pieceLengths),
  range: fc.constantFrom(...ranges),
  pieceDigests: fc.constantFrom(...(["none", "none", "right", "right", "wrong"] as const)),
  taskDigest: fc.constantFrom(...(["none", "none", "crc32", "sha256", "sha256", "wrong"] as const)),
  algorithm: fc.constantFrom("crc32" as const, "sha256" as const),
};
/** Changes one option of the plan. */
const changes: fc.Arbitrary<Partial<Plan>> = fc.oneof(
  ...Object.entries(plans).map(([key, value]) =>
    value.map((chosen: unknown) => ({ [key]: chosen })),
  ),
);

/** Injected end of a run. The run may fail earlier for another reason. */
type End =
  | { readonly is: "done" }
  /** Parents fail requests for this piece and all later ones. */
  | { readonly is: "failed"; readonly from: number }
  /**
   * The process is killed after `after` pieces. If these are all pieces, it has also completed
   * `steps` of the final steps.
   */
  | { readonly is: "killed"; readonly after: number; readonly steps: number }
  /** A directory is created at the path of the file during the run. */
  | { readonly is: "blocked" };

interface Run {
  /** Damage done to the files before the run: a name of `damages`, and its number. */
  readonly damage: readonly (readonly [name: string, number: number])[];
  /** Name of an obstacle in `obstacles`. */
  readonly obstacle: string | undefined;
  readonly changes: Partial<Plan>;
  readonly concurrency: number;
  readonly end: End;
  /** True if another process takes over the lock during the run. */
  readonly lockStolen: boolean;
  /** Change to the file after it is complete. */
  readonly after: "nothing" | "longer" | "touched" | "gone";
}

// --- the property

const end: fc.Arbitrary<End> = fc.oneof(
  fc.constant({ is: "done" as const }),
  { weight: 3, arbitrary: fc.nat({ max: 8 }).map((from) => ({ is: "failed" as const, from })) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.constantFrom(1, 2, 3, 4, 9, 9), fc.nat({ max: 3 }))
      .map(([after, steps]) => ({ is: "killed" as const, after, steps })),
  },
  fc.constant({ is: "blocked" as const }),
);
const run: fc.Arbitrary<Run> = fc.record({
  damage: fc.array(fc.tuple(fc.constantFrom(...Object.keys(damages)), fc.nat()), { maxLength: 3 }),
  obstacle: fc.option(fc.constantFrom(...Object.keys(obstacles)), { freq: 5, nil: undefined }),
  changes: fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    { weight: 2, arbitrary: changes },
    // Other content under the same task id: the download must detect that leftovers differ.
    { weight: 2, arbitrary: fc.constantFrom({ content: 0 }, { content: 1 }) },
  ),
  concurrency: fc.constantFrom(1, 3),
  end,
  lockStolen: fc.nat({ max: 9 }).map((number) => number === 9),
  after: fc.constantFrom("nothing", "longer", "touched", "gone"),
});

const defaultRun: Run = {
  damage: [],
  obstacle: undefined,
  changes: {},
  concurrency: 3,
  end: { is: "done" },
  lockStolen: false,
  after: "nothing",
};

/**
 * Property, for any leftovers and damage:
 *
 * - A file reported as complete has the right content.
 * - Intact pieces are not fetched again; all others are fetched once.
 * - After success, no other file remains.
 * - After a failure, everything needed to resume remains.
 */
export const journal: fc.IAsyncProperty<[Plan, readonly Run[]]> = fc.asyncProperty(
  fc.record<Plan>(plans),
  fc.array(run, { minLength: 1, maxLength: 4 }),
  async (first, runs) => {
    const home = await mkdtemp(join(tmpdir(), "vortex-fuzz-"));
    try {
      const path = join(home, "file");
      let plan = first;
      for (const each of runs) {
        plan = { ...plan, ...each.changes };
        await runAndCheck(path, plan, each);
      }
      // A final run without faults completes the file.
      const pieceDigests = plan.pieceDigests === "wrong" ? "right" : plan.pieceDigests;
      const taskDigest = plan.taskDigest === "wrong" ? "sha256" : plan.taskDigest;
      const last = await runAndCheck(path, { ...plan, pieceDigests, taskDigest }, defaultRun);
      // A failed run has removed the leftovers of other content, so the next run starts from zero.
      if (last === "changed")
        assert.equal(
          await runAndCheck(path, { ...plan, pieceDigests, taskDigest }, defaultRun),
          "done",
        );
      assert.deepEqual(readdirSync(home), ["file"]);
    } finally {
      await rm(home, { recursive: true, force: true });
    }
  },
);

/**
 * Runs a download and checks it against the model. Returns its ending; undefined with an obstacle.
 */
async function runAndCheck(path: string, plan: Plan, run: Run): Promise<Ending | undefined> {
  const task = taskOf(plan);
  const before = filesAt(path);
  for (const [name, number] of run.damage) damages[name]?.(before, task, number);
  writeFiles(path, before);
  // Without this, the lock of a killed process would remain.
  if (run.obstacle !== undefined) rmSync(lockOf(path), { force: true });
  // The killed download ran in this process, whose pid is alive, so its heartbeat must be old.
  else if (existsSync(lockOf(path))) utimesSync(lockOf(path), new Date(0), new Date(0));
  const obstacle = run.obstacle === undefined ? undefined : await obstacles[run.obstacle]?.(path);
  const lock = readText(lockOf(path));
  const outcome = await download(path, plan, task, run);
  if (obstacle !== undefined) {
    assert.equal(outcome.error?.code, "StorageFailed");
    assert.deepEqual(outcome.requested, []);
    assert.equal(readText(lockOf(path)), lock, "the lock");
    await obstacle.end?.();
    assert.deepEqual(openFiles(path), [], "files left open");
    rmSync(lockOf(path), { force: true });
    writeFiles(path, before);
    return undefined;
  }
  assert.deepEqual(openFiles(path), [], "files left open");
  assert.equal(readText(lockOf(path)), run.lockStolen ? foreignLock() : undefined, "the lock");
  rmSync(lockOf(path), { force: true });
  const expectation = expectationOf(task, before);
  const ending = endingOf(task, expectation, run, outcome);
  checkFetchedPieces(task, expectation, outcome, ending, run);
  const after = filesAt(path);
  const { killed } = outcome;
  const left = outcome.events.startedOver
    ? { ...expectation, keptText: `${expectation.header}\n`, intact: [] }
    : expectation;
  if (killed !== undefined) {
    const { files, allPieces: last } = killed;
    checkKeptState(
      task,
      killed.events.startedOver ? left : expectation,
      { ...outcome, events: killed.events },
      files,
      false,
    );
    assertSameBytes(
      files.path,
      expectation.renamed ? undefined : before.path,
      "the file of that name",
    );
    if (last && ending === "done" && run.end.is === "killed")
      applyFinalSteps(files, task, run.end.steps);
    writeFiles(path, files);
    if (!run.lockStolen) writeFileSync(lockOf(path), killed.lock);
    return ending;
  }
  // Once the lock is lost, the files belong to the other process, and are not removed.
  const { lockStolen } = run;
  if (["broken", "wrong piece", "robbed"].includes(ending))
    checkKeptState(
      task,
      { ...left, hasEntries: left.hasEntries || lockStolen },
      outcome,
      after,
      false,
    );
  else if (ending === "blocked") checkKeptState(task, left, outcome, after, true);
  else if (!lockStolen) assert.deepEqual([after.part, after.journal], [undefined, undefined]);
  if (ending === "done") {
    // Unverified content may mix two contents, and is reported as not verified.
    if (outcome.report?.verified.level !== "none") {
      assertSameBytes(after.path, task.wanted, "the file");
      await checkServing(path, task, outcome, run.after);
    }
  } else {
    assertSameBytes(
      after.path,
      expectation.renamed || run.end.is === "blocked" ? undefined : before.path,
      "the file of that name",
    );
  }
  writeFiles(path, after);
  return ending;
}

/** Endings of a run, each with its error code. */
const codes = {
  done: undefined,
  /** The parents failed, or the process was killed. */
  broken: "Aborted",
  /** A piece does not match the digest given by the caller. */
  "wrong piece": "DigestMismatch",
  /** The whole content does not match the digest given by the caller. */
  "wrong whole": "DigestMismatch",
  /**
   * Leftovers differ from the parent's content, and no digest of the whole decides between them.
   */
  changed: "DigestMismatch",
  blocked: "StorageFailed",
  /** Another process has taken over the lock. */
  robbed: "StorageFailed",
} as const satisfies Record<string, ErrorCode | undefined>;
type Ending = keyof typeof codes;

function endingOf(
  task: Task,
  expectation: Expectation,
  { end, lockStolen }: Run,
  { error, killed, events }: Outcome,
): Ending {
  const { intact, differing } = expectation;
  const missing = task.parts.filter(({ number }) => !intact.includes(number));
  const fails = (number: number): boolean => end.is === "failed" && number >= end.from;
  const endings: Ending[] = [];
  if (killed?.allPieces === false) endings.push("broken");
  else {
    if (missing.some(({ number }) => fails(number))) endings.push("broken");
    if (missing.some(({ hasWrongDigest: misnamed }) => misnamed)) endings.push("wrong piece");
  }
  if (endings.length === 0) {
    endings.push(
      task.hasWrongDigest
        ? "wrong whole"
        : lockStolen
          ? "robbed"
          : end.is === "blocked"
            ? "blocked"
            : "done",
    );
  }
  // Intact pieces are compared with the parent; if the download starts over, all are fetched.
  const compared = task.hasPieceDigests ? [] : intact;
  const refetched = events.startedOver ? task.parts.map(({ number }) => number) : [];
  if ([...compared, ...refetched].some(fails)) endings.push("broken");
  if (task.request.digest === undefined && compared.some((number) => differing.includes(number))) {
    const isCertain =
      compared.every((number) => differing.includes(number)) &&
      !compared.some(fails) &&
      killed === undefined;
    if (isCertain && !endings.includes("broken") && !endings.includes("wrong piece"))
      endings.length = 0;
    endings.unshift("changed");
  }
  const ending = endings.find((each) => codes[each] === error?.code);
  assert.ok(ending !== undefined, `expected ${endings.join(" or ")}, not ${error?.stack}`);
  return ending;
}

/**
 * Checks that intact pieces are counted as resumed and all others are fetched once. An interrupted
 * run may fetch only some of them.
 */
function checkFetchedPieces(
  task: Task,
  expectation: Expectation,
  outcome: Outcome,
  ending: Ending,
  { end }: Run,
): void {
  const { recorded, intact, differing, incomparable } = expectation;
  const { events, report } = outcome;
  const { startedOver } = events;
  // A failed comparison with the parent does not count as a piece request.
  const isUnanswered = (number: number): boolean =>
    end.is === "failed" && number >= end.from && intact.includes(number);
  const requested = outcome.requested.filter((number) => startedOver || !isUnanswered(number));
  const numbers = task.parts.map(({ number }) => number);
  const missing = numbers.filter((number) => !intact.includes(number));
  const damaged = recorded.filter((number) => !intact.includes(number));
  assert.equal(events.found, recorded.length, "pieces that are said to be there");
  const compare = ["broken", "wrong piece", "changed"].includes(ending)
    ? assertSubset
    : assert.deepEqual;
  // Pieces in flight when the download started over are requested again.
  compare(
    startedOver ? sorted([...new Set(requested)]) : sorted(requested),
    startedOver ? numbers : missing,
    "pieces asked for",
  );
  compare(sorted(events.fetched), startedOver ? numbers : missing, "pieces fetched");
  compare(sorted(events.resumed), intact, "pieces that were there");
  compare(sorted(events.damaged), damaged, "pieces that are damaged");
  if (startedOver) {
    // The digest of the whole shows that the leftovers belong to other content. A wrong digest
    // shows this for any leftovers.
    assert.ok(task.request.digest !== undefined && intact.length > 0);
    assert.ok(
      task.hasWrongDigest || differing.length + incomparable.length > 0,
      "nothing was wrong with what was there",
    );
  }
  if (report === undefined) return;
  const resumed = startedOver ? [] : task.parts.filter(({ number }) => intact.includes(number));
  assert.equal(report.bytes, task.wanted.length);
  assert.equal(report.pieces, numbers.length);
  assert.equal(report.resumedPieces, resumed.length);
  assert.equal(
    report.resumedBytes,
    resumed.reduce((sum, { bytes }) => sum + bytes.length, 0),
  );
  const { digest } = task.request;
  const { verified } = report;
  if (digest !== undefined) assert.deepEqual(verified, { level: "whole", digest, by: "caller" });
  else if (task.hasPieceDigests || intact.length === 0)
    assert.deepEqual(verified, { level: "pieces" });
  else if (verified.level === "none") {
    assert.ok(intact.some(isUnanswered) || incomparable.length > 0, "all of it could be compared");
  } else assert.deepEqual(verified, { level: "pieces" });
}

/**
 * Checks that the files contain all intact pieces and their journal lines, for the next run. If no
 * piece was recorded or fetched, no files may remain.
 */
function checkKeptState(
  task: Task,
  expectation: Expectation,
  outcome: Outcome,
  files: Files,
  expectComplete: boolean,
): void {
  const { fetched } = outcome.events;
  if (files.journal === undefined) {
    assert.equal(expectation.hasEntries || fetched.length > 0, false, "there is no journal");
    assert.equal(files.part, undefined);
    return;
  }
  const text = files.journal.toString("latin1");
  assert.ok(
    text.startsWith(expectation.keptText),
    `${text}\nexpected to begin with\n${expectation.keptText}`,
  );
  const lines = text.slice(expectation.keptText.length).split("\n");
  assert.equal(lines.pop(), "", "the last line");
  if (expectComplete) assert.equal(lines.pop(), COMPLETE);
  // The last pieces may have been stored without an event.
  assert.ok(expectation.hasEntries || lines.length > 0, "files of nothing");
  const added = task.parts.filter(({ line }) => lines.includes(line)).map(({ number }) => number);
  assert.equal(added.length, lines.length, text);
  assertSubset(sorted(fetched), added, "lines of pieces that were fetched");
  assertSubset(added, sorted(outcome.requested), "lines of pieces that were asked for");
  for (const { number, position, bytes } of task.parts) {
    const isOther =
      expectation.differing.includes(number) || expectation.incomparable.includes(number);
    if (!added.includes(number) && (isOther || !expectation.intact.includes(number))) continue;
    assertSameBytes(
      files.part?.subarray(position, position + bytes.length),
      bytes,
      `piece ${number}`,
    );
  }
}

/**
 * Applies the first `steps` of the final steps (see `FileSession.finish`), as if killed after them.
 */
function applyFinalSteps(files: Files, { wanted }: Task, steps: number): void {
  if (steps > 0) {
    files.part = files.part?.subarray(0, wanted.length);
    files.journal = Buffer.concat([files.journal ?? Buffer.alloc(0), Buffer.from(`${COMPLETE}\n`)]);
  }
  if (steps > 1) {
    files.path = files.part;
    files.part = undefined;
  }
  if (steps > 2) files.journal = undefined;
}

/** Checks that the download's store serves the file, and fails once the file has changed. */
async function checkServing(
  path: string,
  { request, parts }: Task,
  { store }: Outcome,
  after: Run["after"],
): Promise<void> {
  const read = async (number: number): Promise<Buffer | undefined> => {
    const piece = await store.getPiece({
      taskId: request.taskId,
      kind: request.kind ?? "standard",
      number,
    });
    const chunks: Uint8Array[] = [];
    for await (const chunk of piece?.read() ?? []) chunks.push(chunk);
    return piece && Buffer.concat(chunks);
  };
  const [first, ...others] = parts.filter(({ isWholePiece }) => isWholePiece);
  if (first === undefined) return;
  for (const { number, bytes } of [first, ...others.slice(-1)]) {
    assert.deepEqual(await read(number), Buffer.from(bytes), `piece ${number} as it is served`);
  }
  if (after === "nothing") return;
  if (after === "gone") rmSync(path);
  if (after === "touched") utimesSync(path, 1, 1);
  if (after === "longer") writeFileSync(path, "more", { flag: "a" });
  await assert.rejects(
    read(first.number),
    (error) => error instanceof VortexError && error.code === "StorageFailed",
  );
}

// --- a download

/** Observed result of a download. */
interface Outcome {
  readonly error: VortexError | undefined;
  readonly report: TaskReport | undefined;
  readonly requested: readonly number[];
  readonly events: Events;
  readonly store: TaskDownload["store"];
  /** State at the simulated kill. `allPieces` is true if all pieces were stored. */
  readonly killed:
    | {
        readonly files: Files;
        readonly lock: string;
        readonly allPieces: boolean;
        readonly events: Events;
      }
    | undefined;
}

/** Piece numbers reported by events. */
interface Events {
  found: number;
  /** True if the leftovers were dropped and all pieces fetched. */
  startedOver: boolean;
  readonly resumed: number[];
  readonly fetched: number[];
  readonly damaged: number[];
}

async function download(
  path: string,
  plan: Plan,
  task: Task,
  { end, concurrency, lockStolen }: Run,
): Promise<Outcome> {
  const events: Events = { found: 0, startedOver: false, resumed: [], fetched: [], damaged: [] };
  let killed: Outcome["killed"];
  const { algorithm } = plan;
  const behaviour: typeof honestParent = (piece) =>
    end.is === "failed" && piece.number >= end.from
      ? new VortexError("Aborted", "the parent was shut down")
      : honestParent(piece);
  const parents = new FakeParents(
    task.content,
    1,
    { "a:1": behaviour },
    { algorithm, pieces: task.pieces },
  );
  const fetcher = new TaskFetcher(parents, taskSettings({ concurrentPieceCount: concurrency }));
  const to = fileSink(path);
  const ending = new AbortController();
  const handle = fetcher.downloadTask({
    ...task.request,
    to,
    signal: ending.signal,
    onEvent: (event) => {
      if (event.type === "started") {
        events.found = event.resumedPieces;
        if (end.is === "blocked") {
          rmSync(path, { force: true });
          mkdirSync(path);
        }
        if (lockStolen) writeFileSync(lockOf(path), foreignLock());
      }
      if (event.type === "restarted") events.startedOver = true;
      if (event.type === "piece-damaged") events.damaged.push(event.number);
      if (event.type !== "piece") return;
      (event.parent === undefined ? events.resumed : events.fetched).push(event.number);
      const count = (events.startedOver ? 0 : events.resumed.length) + events.fetched.length;
      if (
        killed !== undefined ||
        end.is !== "killed" ||
        count !== Math.min(end.after, task.parts.length)
      )
        return;
      killed = {
        files: filesAt(path),
        lock: readText(lockOf(path)) ?? "",
        allPieces: count === task.parts.length,
        events: { ...events, fetched: [...events.fetched] },
      };
      if (!killed.allPieces) ending.abort();
    },
  });
  // The fake clock does not advance: a download must not wait for a timer.
  const [report, error] = await settled(handle);
  const [, used] = await settled(fetcher.downloadTask({ ...task.request, to }));
  assert.equal(used?.code, "InvalidArgument", "a sink is of one use");
  return { report, error, requested: parents.numbers(), events, store: handle.store, killed };
}

const honestParent = honest(200);

function settled(
  download: TaskDownload,
): Promise<[TaskReport | undefined, VortexError | undefined]> {
  return download.then(
    (report) => [report, undefined],
    (error: unknown) => {
      if (error instanceof VortexError) return [undefined, error];
      throw error;
    },
  );
}

// --- files

function lockOf(path: string): string {
  return `${path}.part.lock`;
}

function readText(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

/** Reads the files of a download. Fails if others exist, except its lock. */
function filesAt(path: string): Files {
  const known = ["file", "file.part", "file.part.journal", "file.part.lock"];
  assert.deepEqual(
    readdirSync(dirname(path)).filter((name) => !known.includes(name)),
    [],
  );
  const [file, part, journal] = known.slice(0, 3).map((name) => {
    const found = join(dirname(path), name);
    return statSync(found, { throwIfNoEntry: false })?.isFile() ? readFileSync(found) : undefined;
  });
  return { path: file, part, journal };
}

/** Writes the files of a download and removes absent ones. */
function writeFiles(path: string, files: Files): void {
  const { path: file, part, journal } = files;
  for (const [name, bytes] of Object.entries({
    [path]: file,
    [`${path}.part`]: part,
    [`${path}.part.journal`]: journal,
  })) {
    rmSync(name, { recursive: true, force: true });
    if (bytes !== undefined) writeFileSync(name, bytes);
  }
}

/** Lists open files of this process in the download's directory; empty without /proc. */
function openFiles(path: string): string[] {
  const descriptors = "/proc/self/fd";
  if (!existsSync(descriptors)) return [];
  return readdirSync(descriptors).flatMap((name) => {
    try {
      const open = readlinkSync(join(descriptors, name));
      return open.startsWith(dirname(path)) ? [open] : [];
    } catch {
      // The descriptor used to read the directory is already closed.
      return [];
    }
  });
}

// --- comparing

function sorted(numbers: readonly number[]): number[] {
  return [...numbers].sort((a, b) => a - b);
}

/** Asserts that `numbers` are distinct elements of `all`, in the same order. */
function assertSubset(numbers: readonly number[], all: readonly number[], what: string): void {
  assert.deepEqual(
    numbers,
    all.filter((number) => numbers.includes(number)),
    what,
  );
}

function assertSameBytes(
  found: Buffer | undefined,
  expected: Uint8Array | undefined,
  what: string,
): void {
  const equal =
    found === undefined || expected === undefined ? found === expected : found.equals(expected);
  assert.ok(equal, `${what}: ${found?.length} bytes are not what ${expected?.length} were to be`);
}

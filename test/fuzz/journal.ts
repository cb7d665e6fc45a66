/** Downloads to one file, one after another: what each leaves is damaged, and the next one has to make of it what it says. */
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
import { damages, obstacles, other } from "./journal-leftovers.ts";
import {
  COMPLETE,
  type Files,
  type Outlook,
  outlookOf,
  type Plan,
  type Task,
  taskOf,
} from "./journal-model.ts";

const LENGTH = 2900;
/** Pieces 0, 3 and 4 of the two lists lie at the same places. */
const cuts = [512, 400, [300, 700, 200, 900], [300, 200, 700, 900]];
/** Some have the same length, or the same start. Only where there is none, the whole has a digest. */
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
  contentLength: fc.constantFrom(LENGTH, LENGTH - 400),
  cut: fc.constantFrom(...cuts),
  range: fc.constantFrom(...ranges),
  named: fc.constantFrom(...(["none", "none", "right", "right", "wrong"] as const)),
  whole: fc.constantFrom(...(["none", "none", "crc32", "sha256", "sha256", "wrong"] as const)),
  algorithm: fc.constantFrom("crc32" as const, "sha256" as const),
};
/** One option is another one than in the run before. */
const changes: fc.Arbitrary<Partial<Plan>> = fc.oneof(
  ...Object.entries(plans).map(([key, value]) =>
    value.map((chosen: unknown) => ({ [key]: chosen })),
  ),
);

/** How a run ends, unless it fails by itself. */
type End =
  | { readonly is: "done" }
  /** Parents fail the task at this piece, or any later one. */
  | { readonly is: "failed"; readonly from: number }
  /** The process ends when so many pieces are there; of the last steps, once all are, it has made so many. */
  | { readonly is: "killed"; readonly after: number; readonly steps: number }
  /** A directory takes the name of the file meanwhile. */
  | { readonly is: "blocked" };

interface Run {
  /** What happens to the files before: a name of `damages`, and what it is to do. */
  readonly damage: readonly (readonly [name: string, number: number])[];
  /** What is in the way: a name of `obstacles`. */
  readonly obstacle: string | undefined;
  readonly changes: Partial<Plan>;
  readonly concurrency: number;
  readonly end: End;
  /** Whether another process takes the lock over meanwhile. */
  readonly robbed: boolean;
  /** What happens to the file when it is there. */
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
    // The content behind the same task id: what is there has to be noticed then.
    { weight: 2, arbitrary: fc.constantFrom({ content: 0 }, { content: 1 }) },
  ),
  concurrency: fc.constantFrom(1, 3),
  end,
  robbed: fc.nat({ max: 9 }).map((number) => number === 9),
  after: fc.constantFrom("nothing", "longer", "touched", "gone"),
});

const usual: Run = {
  damage: [],
  obstacle: undefined,
  changes: {},
  concurrency: 3,
  end: { is: "done" },
  robbed: false,
  after: "nothing",
};

/**
 * Whatever an earlier download left, and whatever became of it: a file that is reported complete is right, a piece that is there is
 * not fetched again, all others are, once, and nothing else remains; after a failure there remains what the next one goes on from.
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
        await makes(path, plan, each);
      }
      // In the end, somebody has it.
      const named = plan.named === "wrong" ? "right" : plan.named;
      const whole = plan.whole === "wrong" ? "sha256" : plan.whole;
      const last = await makes(path, { ...plan, named, whole }, usual);
      // What was left of another content is gone, so that the next one begins anew.
      if (last === "changed")
        assert.equal(await makes(path, { ...plan, named, whole }, usual), "done");
      assert.deepEqual(readdirSync(home), ["file"]);
    } finally {
      await rm(home, { recursive: true, force: true });
    }
  },
);

/** One run makes of what is there what it is to make of it. Returns how it ended. */
async function makes(path: string, plan: Plan, run: Run): Promise<Ending | undefined> {
  const task = taskOf(plan);
  const before = filesAt(path);
  for (const [name, number] of run.damage) damages[name]?.(before, task, number);
  put(path, before);
  // Else the lock of a process that was killed is there still.
  if (run.obstacle !== undefined) rmSync(lockOf(path), { force: true });
  // It was killed in this very process, whose pid says nothing; so its heartbeat has to be old.
  else if (existsSync(lockOf(path))) utimesSync(lockOf(path), new Date(0), new Date(0));
  const hold = run.obstacle === undefined ? undefined : await obstacles[run.obstacle]?.(path);
  const lock = textOf(lockOf(path));
  const outcome = await download(path, plan, task, run);
  if (hold !== undefined) {
    assert.equal(outcome.error?.code, "StorageFailed");
    assert.deepEqual(outcome.asked, []);
    assert.equal(textOf(lockOf(path)), lock, "the lock");
    await hold.end?.();
    assert.deepEqual(openIn(path), [], "files left open");
    rmSync(lockOf(path), { force: true });
    put(path, before);
    return undefined;
  }
  assert.deepEqual(openIn(path), [], "files left open");
  assert.equal(textOf(lockOf(path)), run.robbed ? other() : undefined, "the lock");
  rmSync(lockOf(path), { force: true });
  const outlook = outlookOf(task, before);
  const ending = endingOf(task, outlook, run, outcome);
  fetchesTheRest(task, outlook, outcome, ending, run);
  const after = filesAt(path);
  const { killed } = outcome;
  const left = outcome.events.startedOver
    ? { ...outlook, kept: `${outlook.header}\n`, right: [] }
    : outlook;
  if (killed !== undefined) {
    const { files, last } = killed;
    keeps(
      task,
      killed.events.startedOver ? left : outlook,
      { ...outcome, events: killed.events },
      files,
      false,
    );
    same(files.path, outlook.moved ? undefined : before.path, "the file of that name");
    if (last && ending === "done" && run.end.is === "killed") finish(files, task, run.end.steps);
    put(path, files);
    if (!run.robbed) writeFileSync(lockOf(path), killed.lock);
    return ending;
  }
  if (["broken", "wrong piece", "robbed"].includes(ending))
    keeps(task, left, outcome, after, false);
  else if (ending === "blocked") keeps(task, left, outcome, after, true);
  else assert.deepEqual([after.part, after.journal], [undefined, undefined]);
  if (ending === "done") {
    // What nobody vouched for may be made of two contents, and is said to be vouched for by nothing.
    if (outcome.report?.verified.level !== "none") {
      same(after.path, task.wanted, "the file");
      await serves(path, task, outcome, run.after);
    }
  } else {
    same(
      after.path,
      outlook.moved || run.end.is === "blocked" ? undefined : before.path,
      "the file of that name",
    );
  }
  put(path, after);
  return ending;
}

/** What a run ends with, and its code. */
const codes = {
  done: undefined,
  /** Its parents failed it, or its process ended. */
  broken: "Aborted",
  /** A piece has not the digest that the caller named; nor has the whole. */
  "wrong piece": "DigestMismatch",
  "wrong whole": "DigestMismatch",
  /** The parent has another content than what is there, and no digest of the whole says which is right. */
  changed: "DigestMismatch",
  blocked: "StorageFailed",
  /** Somebody else writes to the file by now. */
  robbed: "StorageFailed",
} as const satisfies Record<string, ErrorCode | undefined>;
type Ending = keyof typeof codes;

function endingOf(
  task: Task,
  outlook: Outlook,
  { end, robbed }: Run,
  { error, killed, events }: Outcome,
): Ending {
  const { right, others } = outlook;
  const missing = task.parts.filter(({ number }) => !right.includes(number));
  const fails = (number: number): boolean => end.is === "failed" && number >= end.from;
  const endings: Ending[] = [];
  if (killed?.last === false) endings.push("broken");
  else {
    if (missing.some(({ number }) => fails(number))) endings.push("broken");
    if (missing.some(({ misnamed }) => misnamed)) endings.push("wrong piece");
  }
  if (endings.length === 0) {
    endings.push(
      task.wrong ? "wrong whole" : robbed ? "robbed" : end.is === "blocked" ? "blocked" : "done",
    );
  }
  // Some of what is there is asked about; and where that is dropped, everything is fetched.
  const asked = task.isNamed ? [] : right;
  const again = events.startedOver ? task.parts.map(({ number }) => number) : [];
  if ([...asked, ...again].some(fails)) endings.push("broken");
  if (task.request.digest === undefined && asked.some((number) => others.includes(number))) {
    const isCertain =
      asked.every((number) => others.includes(number)) &&
      !asked.some(fails) &&
      killed === undefined;
    if (isCertain && !endings.includes("broken") && !endings.includes("wrong piece"))
      endings.length = 0;
    endings.unshift("changed");
  }
  const ending = endings.find((each) => codes[each] === error?.code);
  assert.ok(ending !== undefined, `expected ${endings.join(" or ")}, not ${error?.stack}`);
  return ending;
}

/** What is there and right is counted, and everything else fetched, once; when the run is broken off, some of it. */
function fetchesTheRest(
  task: Task,
  outlook: Outlook,
  outcome: Outcome,
  ending: Ending,
  { end }: Run,
): void {
  const { found, right, others, incomparable } = outlook;
  const { events, report } = outcome;
  const { startedOver } = events;
  // A question that fails is no request for a piece.
  const isUnanswered = (number: number): boolean =>
    end.is === "failed" && number >= end.from && right.includes(number);
  const asked = outcome.asked.filter((number) => startedOver || !isUnanswered(number));
  const numbers = task.parts.map(({ number }) => number);
  const missing = numbers.filter((number) => !right.includes(number));
  const damaged = found.filter((number) => !right.includes(number));
  assert.equal(events.found, found.length, "pieces that are said to be there");
  const compare = ["broken", "wrong piece", "changed"].includes(ending) ? within : assert.deepEqual;
  // What was under way when the rest was dropped is asked for again.
  compare(
    startedOver ? inOrder([...new Set(asked)]) : inOrder(asked),
    startedOver ? numbers : missing,
    "pieces asked for",
  );
  compare(inOrder(events.fetched), startedOver ? numbers : missing, "pieces fetched");
  compare(inOrder(events.resumed), right, "pieces that were there");
  compare(inOrder(events.damaged), damaged, "pieces that are damaged");
  if (startedOver) {
    // The digest of the whole says that what was there is of another content; a wrong one says it of everything.
    assert.ok(task.request.digest !== undefined && right.length > 0);
    assert.ok(
      task.wrong || others.length + incomparable.length > 0,
      "nothing was wrong with what was there",
    );
  }
  if (report === undefined) return;
  const resumed = startedOver ? [] : task.parts.filter(({ number }) => right.includes(number));
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
  else if (task.isNamed || right.length === 0) assert.deepEqual(verified, { level: "pieces" });
  else if (verified.level === "none") {
    assert.ok(right.some(isUnanswered) || incomparable.length > 0, "all of it could be compared");
  } else assert.deepEqual(verified, { level: "pieces" });
}

/** What the next one needs is there: all that is right, and what tells of it. Nothing is, where nothing was and nothing came. */
function keeps(task: Task, outlook: Outlook, outcome: Outcome, files: Files, noted: boolean): void {
  const { fetched } = outcome.events;
  if (files.journal === undefined) {
    assert.equal(outlook.tells || fetched.length > 0, false, "there is no journal");
    assert.equal(files.part, undefined);
    return;
  }
  const text = files.journal.toString("latin1");
  assert.ok(text.startsWith(outlook.kept), `${text}\nexpected to begin with\n${outlook.kept}`);
  const lines = text.slice(outlook.kept.length).split("\n");
  assert.equal(lines.pop(), "", "the last line");
  if (noted) assert.equal(lines.pop(), COMPLETE);
  // The last ones may have come without being told of.
  assert.ok(outlook.tells || lines.length > 0, "files of nothing");
  const added = task.parts.filter(({ line }) => lines.includes(line)).map(({ number }) => number);
  assert.equal(added.length, lines.length, text);
  within(inOrder(fetched), added, "lines of pieces that were fetched");
  within(added, inOrder(outcome.asked), "lines of pieces that were asked for");
  for (const { number, position, bytes } of task.parts) {
    const isOther = outlook.others.includes(number) || outlook.incomparable.includes(number);
    if (!added.includes(number) && (isOther || !outlook.right.includes(number))) continue;
    same(files.part?.subarray(position, position + bytes.length), bytes, `piece ${number}`);
  }
}

/** Of the last steps, those that a process made before it was killed (see `FileSession.finish`). */
function finish(files: Files, { wanted }: Task, steps: number): void {
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

/** The file can be served, as long as it is what it was. */
async function serves(
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
  const [first, ...others] = parts.filter(({ whole }) => whole);
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

/** What was seen of a download. */
interface Outcome {
  readonly error: VortexError | undefined;
  readonly report: TaskReport | undefined;
  readonly asked: readonly number[];
  readonly events: Events;
  readonly store: TaskDownload["store"];
  /** What was there when its process was killed, and whether all was. */
  readonly killed:
    | {
        readonly files: Files;
        readonly lock: string;
        readonly last: boolean;
        readonly events: Events;
      }
    | undefined;
}

/** Pieces, as they were told of. */
interface Events {
  found: number;
  /** What was there was dropped, and all of it fetched. */
  startedOver: boolean;
  readonly resumed: number[];
  readonly fetched: number[];
  readonly damaged: number[];
}

async function download(
  path: string,
  plan: Plan,
  task: Task,
  { end, concurrency, robbed }: Run,
): Promise<Outcome> {
  const events: Events = { found: 0, startedOver: false, resumed: [], fetched: [], damaged: [] };
  let killed: Outcome["killed"];
  const { algorithm } = plan;
  const behaviour: typeof honestly = (piece) =>
    end.is === "failed" && piece.number >= end.from
      ? new VortexError("Aborted", "the power is gone")
      : honestly(piece);
  const parents = new FakeParents(
    task.content,
    1,
    { "a:1": behaviour },
    { algorithm, pieces: task.pieces },
  );
  const fetcher = new TaskFetcher(parents, taskSettings({ concurrentPieceCount: concurrency }));
  const to = fileSink(path);
  const handle = fetcher.downloadTask(task.request, {
    to,
    onEvent: (event) => {
      if (event.type === "started") {
        events.found = event.resumedPieces;
        if (end.is === "blocked") {
          rmSync(path, { force: true });
          mkdirSync(path);
        }
        if (robbed) writeFileSync(lockOf(path), other());
      }
      if (event.type === "started-over") events.startedOver = true;
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
        lock: textOf(lockOf(path)) ?? "",
        last: count === task.parts.length,
        events: { ...events, fetched: [...events.fetched] },
      };
      if (!killed.last) handle.cancel();
    },
  });
  // The clock stands still: nothing here is to wait for it.
  const [report, error] = await settled(handle);
  const [, used] = await settled(fetcher.downloadTask(task.request, { to }));
  assert.equal(used?.code, "InvalidArgument", "a sink is of one use");
  return { report, error, asked: parents.numbers(), events, store: handle.store, killed };
}

const honestly = honest(200);

function settled({
  done,
}: TaskDownload): Promise<[TaskReport | undefined, VortexError | undefined]> {
  return done.then(
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

function textOf(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

/** What is there of a download; nothing else may be but its lock. */
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

/** Makes these files what is there of a download. */
function put(path: string, files: Files): void {
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

/** Files of a download that this process has open, where that can be told. */
function openIn(path: string): string[] {
  const descriptors = "/proc/self/fd";
  if (!existsSync(descriptors)) return [];
  return readdirSync(descriptors).flatMap((name) => {
    try {
      const open = readlinkSync(join(descriptors, name));
      return open.startsWith(dirname(path)) ? [open] : [];
    } catch {
      // The one that the directory was read by.
      return [];
    }
  });
}

// --- comparing

function inOrder(numbers: readonly number[]): number[] {
  return [...numbers].sort((a, b) => a - b);
}

/** Each of the numbers is one of `all`, and there once. */
function within(numbers: readonly number[], all: readonly number[], what: string): void {
  assert.deepEqual(
    numbers,
    all.filter((number) => numbers.includes(number)),
    what,
  );
}

function same(found: Buffer | undefined, expected: Uint8Array | undefined, what: string): void {
  const equal =
    found === undefined || expected === undefined ? found === expected : found.equals(expected);
  assert.ok(equal, `${what}: ${found?.length} bytes are not what ${expected?.length} were to be`);
}

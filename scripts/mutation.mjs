// Mutation testing: changes one expression at a time, and reports the changes that no test detects.
//
//     npm run mutation                            the files of test/mutation/files.json
//     npm run mutation -- src/ids.ts src/pool.ts  some files
//     npm run mutation -- --jobs 1 --match "<=" src/ids.ts
//
// A file is instrumented once with all its mutants (mutant schemata). An environment variable
// selects the active one, so that no mutant needs a build. Tests run on Bun, each test file in a
// separate process.
//
// A first run without an active mutant records which mutants each test file reaches, and its
// duration. A mutant then runs only the tests that reach it, the fastest first, up to the first
// failure. Mutants that TypeScript rejects do not count. Nor do those in
// test/mutation/equivalent.json.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { compileCheck } from "./mutation/compile-check.mjs";
import { instrument, loadEquivalents } from "./mutation/mutants.mjs";

/** Minimum share of mutants that tests must detect, in percent. */
const MIN_SCORE = 95;
/**
 * Extra time for a test file with a mutant, in ms, beyond {@link TIME_FACTOR} times its normal
 * time.
 */
const EXTRA_TIME_MS = 6_000;
const TIME_FACTOR = 4;
/** Maximum number of runs of a test file without an active mutant, of which one must pass. */
const MAX_RUNS = 3;
/** Timeout for a test file without an active mutant, in ms. */
const DRY_RUN_TIMEOUT_MS = 180_000;

const root = fileURLToPath(new URL("..", import.meta.url));
const bun = join(root, "node_modules", ".bin", "bun");
const scratch = join(root, `node_modules/.cache/vortex-peer-mutation-${process.pid}`);
const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    jobs: { type: "string", default: String(availableParallelism()) },
    match: { type: "string" },
  },
});
const jobs = Number(flags.jobs);
if (!Number.isInteger(jobs) || jobs < 1)
  throw new Error(`--jobs: expected an integer from 1, got ${flags.jobs}`);
const chosen = JSON.parse(readFileSync(join(root, "test/mutation/files.json"), "utf8"));
const files =
  positionals.length > 0
    ? positionals.map((file) => relative(root, resolve(file)))
    : Object.keys(chosen);
const children = new Set();

mkdirSync(scratch, { recursive: true });
process.on("exit", () => {
  for (const child of children) killGroup(child);
  rmSync(scratch, { recursive: true, force: true });
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));

const rows = [];
const survivors = [];
const check = compileCheck(root);
const equivalents = loadEquivalents(join(root, "test/mutation/equivalent.json"));
for (const file of files) {
  const started = performance.now();
  const row = await mutate(file);
  rows.push(row);
  console.log(
    `${file}: ${row.score.toFixed(1)} % in ${((performance.now() - started) / 1000).toFixed(0)} s`,
  );
}

if (survivors.length > 0) console.log(`\nnot detected:\n${survivors.join("\n")}`);
const stale = flags.match === undefined ? equivalents.unused(files) : [];
if (stale.length > 0)
  console.log(`\nno such mutant (test/mutation/equivalent.json):\n${stale.join("\n")}`);
printTable(rows);
const low = rows.filter(({ score }) => score < MIN_SCORE);
if (low.length > 0)
  console.log(`\nbelow ${MIN_SCORE} %: ${low.map(({ file }) => file).join(", ")}`);
process.exitCode = low.length > 0 || stale.length > 0 ? 1 : 0;

/** Runs the mutants of one file. */
async function mutate(file) {
  const { source, mutants: all } = await instrument(root, file);
  const instrumented = join(scratch, `${file.replaceAll("/", "+")}`);
  writeFileSync(instrumented, source);
  const mutants = all.filter(
    ({ was, becomes }) => !flags.match || `${was} ${becomes}`.includes(flags.match),
  );
  const tests = await dryRuns(file, instrumented);
  const counts = { mutants: 0, killed: 0, timeout: 0, survived: 0, equivalent: 0, refused: 0 };
  const queue = [...mutants];
  const work = async () => {
    for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
      if (!check(file, mutant)) counts.refused++;
      else if (equivalents.explains(file, mutant)) counts.equivalent++;
      else {
        counts.mutants++;
        const outcome = await outcomeOf(file, instrumented, mutant, tests);
        counts[outcome]++;
        if (outcome === "survived")
          survivors.push(`${file}:${mutant.line}: ${mutant.was}\n    becomes ${mutant.becomes}`);
      }
      progress(
        `${file}: ${mutants.length - queue.length} of ${mutants.length}, ${counts.survived} not detected`,
      );
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  progress("");
  const score =
    counts.mutants === 0 ? 100 : (100 * (counts.killed + counts.timeout)) / counts.mutants;
  return { file, ...counts, score };
}

/** Resolves to `killed`, `timeout` or `survived`. */
async function outcomeOf(file, instrumented, { id }, tests) {
  for (const { test, time, reached } of tests) {
    if (!reached.has(id)) continue;
    const { status } = await runTest(
      file,
      instrumented,
      test,
      id,
      time * TIME_FACTOR + EXTRA_TIME_MS,
    );
    if (status === "timeout") return "timeout";
    if (status !== 0) return "killed";
  }
  return "survived";
}

/**
 * Runs the tests of a file without an active mutant. Resolves to those that pass, the fastest
 * first, with the mutants that each reaches.
 */
async function dryRuns(file, instrumented) {
  const tests = [];
  const queue = testsOf(file);
  if (queue.length === 0)
    console.log(`${file}: no test imports it; name its tests in test/mutation/files.json`);
  const work = async () => {
    for (let test = queue.shift(); test !== undefined; test = queue.shift()) {
      const run = await dryRun(file, instrumented, test);
      if (run.status === 0) tests.push(run);
      else
        console.log(
          `${test}: left out, since it fails without a mutant (${run.status})\n${run.output.slice(-2000)}`,
        );
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return tests.sort((one, other) => one.time - other.time);
}

async function dryRun(file, instrumented, test) {
  for (let tries = 1; ; tries++) {
    const started = performance.now();
    const run = await runTest(file, instrumented, test, undefined, DRY_RUN_TIMEOUT_MS);
    if (run.status === 0 || tries === MAX_RUNS)
      return { test, time: performance.now() - started, ...run };
  }
}

/**
 * Runs one test file. Resolves to its exit code or `timeout`, and to the ids of the mutants that it
 * reached.
 */
async function runTest(file, instrumented, test, mutant, limit) {
  const reachedPrefix = join(
    scratch,
    `reached-${basename(test)}-${Math.random().toString(36).slice(2)}`,
  );
  const child = spawn(bun, ["test", "--bail", "--timeout=120000", `./${test}`], {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    // A separate process group, so that programs started by a test end with it.
    detached: true,
    env: {
      ...process.env,
      // Programs started by a test are mutated too.
      BUN_OPTIONS: `--preload=${join(root, "scripts/mutation/preload.mjs")}`,
      VORTEX_PEER_MUTATED: JSON.stringify({ file: join(root, file), instrumented, reachedPrefix }),
      ...(mutant !== undefined && { __STRYKER_ACTIVE_MUTANT__: mutant }),
    },
  });
  children.add(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      output = (output + chunk).slice(-10_000);
    });
  }
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    killGroup(child);
  }, limit);
  const status = await new Promise((resolve) => child.once("exit", (code) => resolve(code ?? 1)));
  clearTimeout(timer);
  killGroup(child);
  children.delete(child);
  const reached = new Set();
  for (const name of readdirSync(scratch).filter((name) =>
    name.startsWith(basename(reachedPrefix)),
  )) {
    for (const id of JSON.parse(readFileSync(join(scratch, name), "utf8"))) reached.add(id);
    rmSync(join(scratch, name));
  }
  return { status: late ? "timeout" : status, reached, output };
}

function killGroup({ pid }) {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // The group has already ended.
  }
}

/**
 * Lists the test files of a source file: those that import it, directly or through test/support,
 * and those that files.json adds.
 */
function testsOf(file) {
  const extra = chosen[file] ?? [];
  const importing = readdirSync(join(root, "test"), { recursive: true })
    .map((name) => join("test", String(name)))
    .filter(
      (name) =>
        /^test\/(unit|compliance|fuzz)\/.*\.test\.ts$/.test(name) && importsOf(name).has(file),
    );
  return [...new Set([...importing, ...extra])];
}

/** Collects every file that a test imports, directly or through other files of test. */
function importsOf(test, found = new Set()) {
  for (const [, specifier] of readFileSync(join(root, test), "utf8").matchAll(
    /(?:from|import)\s*\(?\s*"(\.[^"]+)"/g,
  )) {
    const file = relative(root, resolve(root, dirname(test), specifier));
    if (found.has(file)) continue;
    found.add(file);
    if (file.startsWith("test/") && existsSync(join(root, file))) importsOf(file, found);
  }
  return found;
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

function printTable(rows) {
  const columns = [
    "file",
    "mutants",
    "killed",
    "timeout",
    "survived",
    "equivalent",
    "refused",
    "score",
  ];
  const total = { file: "all" };
  for (const column of columns.slice(1, -1))
    total[column] = rows.reduce((sum, row) => sum + row[column], 0);
  total.score = total.mutants === 0 ? 100 : (100 * (total.killed + total.timeout)) / total.mutants;
  const cells = [...rows, total].map((row) =>
    columns.map((name) => (name === "score" ? `${row.score.toFixed(1)} %` : row[name])),
  );
  console.log(`\n| ${columns.join(" | ")} |\n| --- |${" ---: |".repeat(columns.length - 1)}`);
  for (const row of cells) console.log(`| ${row.join(" | ")} |`);
}

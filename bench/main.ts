/**
 * Benchmark of pieces over QUIC, TCP and gRPC on every runtime of this machine, beside the same
 * requests without this library.
 *
 * - `npm run bench`: everything on one host; results in bench/results
 * - `npm run bench -- --quick`: a small version of everything, in two minutes
 * - `npm run bench -- --long`: a long link with 50 ms, 200 Mbit/s and 0 to 1 % loss (Linux, as
 *   root, with gcc)
 * - `npm run bench -- --import`: cold import of each entry of the built package, and its code size
 * - `npm run bench -- --help`: all options
 *
 * Exits with code 1 when a measurement of this library failed. Missed targets are reported, but do
 * not fail the run.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type FirstByteRow, measureFirstBytes } from "./first-byte.ts";
import { entrySizes, importTables, measureImports } from "./import-time.ts";
import { type LongRow, measureLong } from "./long/long.ts";
import { plotOf } from "./plot.ts";
import { Failure } from "./processes.ts";
import { writeReadme } from "./readme.ts";
import { type Results, thisMachine, thisVersion } from "./results.ts";
import { type Amount, type MeasuredRow, measureRows, type Row } from "./rows.ts";
import { findRuntimes, type Runtime } from "./runtimes.ts";
import { type SubjectEntry, subjects } from "./subjects.ts";
import { tablesOf } from "./tables.ts";
import { targetsOf } from "./targets.ts";
import { workloads } from "./workloads.ts";

const MEBI = 1024 * 1024;
const DEFAULT_OUT = fileURLToPath(new URL("results", import.meta.url));

const HELP = `npm run bench -- [options]
  --quick          a small version: one round, short runs, shared processes
  --long           measures a long link instead of one host
  --import         measures cold import and code size of each entry of the built package
  --rounds N       rounds, each with new processes (default 3, quick 1)
  --turns N        runs of each row per round, interleaved with other rows (default 5, quick 1; ignored by --long)
  --size BYTES     bytes per run, or with KiB, MiB or GiB (default 64MiB, quick 16MiB)
  --only REGEX     only rows with matching names, such as "^bun .* quic-"
  --node PATH      an additional Node to measure; may be repeated
  --out DIRECTORY  output directory of latest.json and latest.svg (default bench/results for complete runs)
  --json           prints the results as JSON instead of tables`;

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    long: { type: "boolean", default: false },
    import: { type: "boolean", default: false },
    rounds: { type: "string" },
    turns: { type: "string" },
    size: { type: "string" },
    only: { type: "string", default: "" },
    node: { type: "string", multiple: true, default: [] },
    out: { type: "string" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));
try {
  if (values.help) console.log(HELP);
  else if (values.import) await benchImports();
  else process.exitCode = await bench();
} catch (error) {
  if (!(error instanceof Failure)) throw error;
  console.error(`bench: ${error.message}`);
  process.exitCode = 1;
}

async function bench(): Promise<number> {
  const { quick } = values;
  const amount: Amount = {
    rounds: positive("--rounds", Number(values.rounds ?? (quick ? 1 : 3))),
    turns: values.long ? 1 : positive("--turns", Number(values.turns ?? (quick ? 1 : 5))),
    size: positive("--size", parseSize(values.size ?? (quick ? "16MiB" : "64MiB"))),
    seconds: quick ? 0.4 : 1,
    patience: 30,
    contentLength: (quick ? 16 : 64) * MEBI,
    shared: quick,
  };
  const only = new RegExp(values.only);
  const machine = thisMachine();
  if (machine.load > 0.5) report(`other programs use the CPU too: load ${machine.load.toFixed(1)}`);
  const { list, missing } = await findRuntimes(values.node);
  for (const reason of missing) report(`left out: ${reason}`);
  const pairs = list.flatMap((runtime) =>
    subjects
      .filter(
        (subject) => subject.runtimes.includes(runtime.name) && !(quick && subject.informative),
      )
      .map((subject) => [runtime, subject] as const),
  );
  let rows: MeasuredRow[] = [];
  const firstBytes: FirstByteRow[] = [];
  let long: LongRow[] | undefined;
  if (values.long) {
    long = await measureLong(pairs, only, amount.rounds, report);
  } else {
    rows = await measureRows(rowsOf(pairs, only), amount, report);
    for (const [runtime, subject] of pairs) {
      if (!only.test(`${runtime.title} ${subject.name} first byte`)) continue;
      firstBytes.push(...(await measureFirstBytes(runtime, subject, quick ? 3 : 15, report)));
    }
  }
  const all = [...rows, ...firstBytes, ...(long ?? [])];
  if (all.length === 0) throw new Failure(`no row matches --only ${values.only}`);
  const results: Results = {
    command: commandOf(),
    measuredAt: new Date().toISOString(),
    vortexPeer: thisVersion(),
    machine,
    runtimes: Object.fromEntries(list.map(({ title, version }) => [title, version])),
    amount,
    rows,
    firstBytes,
    ...(long !== undefined && { long }),
    targets: targetsOf(rows, firstBytes, long),
  };
  await write(results);
  console.log(values.json ? JSON.stringify(results) : tablesOf(results));
  return all.some((row) => row.failure !== undefined && !row.missing && isOurs(row.subject))
    ? 1
    : 0;
}

/** Prints the tables of {@link measureImports}; writes nothing. */
async function benchImports(): Promise<void> {
  const turns = positive("--turns", Number(values.turns ?? 9));
  const { list, missing } = await findRuntimes(values.node);
  for (const reason of missing) report(`left out: ${reason}`);
  const rows = await measureImports(list, turns, report);
  const sizes = entrySizes();
  console.log(values.json ? JSON.stringify({ rows, sizes }) : importTables(rows, sizes));
}

function rowsOf(pairs: readonly (readonly [Runtime, SubjectEntry])[], only: RegExp): Row[] {
  return workloads
    .flatMap((workload) =>
      pairs.map(([runtime, subject]) => {
        const name = `${runtime.title} ${subject.name} ${workload.name}`;
        return { name, runtime, subject, workload };
      }),
    )
    .filter(({ name }) => only.test(name));
}

/**
 * Writes the results. Partial ones go only to a directory given by `--out`. README shows those in
 * the default directory, see {@link writeReadme}.
 */
async function write(results: Results): Promise<void> {
  const complete = !values.quick && values.only === "";
  if (values.out === undefined && !complete) return;
  const directory = values.out === undefined ? DEFAULT_OUT : resolve(values.out);
  const name = values.long ? "long" : "latest";
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, `${name}.json`), `${JSON.stringify(results, undefined, 1)}\n`);
  if (!values.long) await writeFile(join(directory, `${name}.svg`), plotOf(results));
  if (directory === DEFAULT_OUT) writeReadme();
  report(`written to ${directory}`);
}

/** Returns the command that repeats the measurement, without paths of this machine. */
function commandOf(): string {
  const { quick, long, rounds, turns, size, only, node } = values;
  const options = [
    ...(quick ? ["--quick"] : []),
    ...(long ? ["--long"] : []),
    ...(rounds === undefined ? [] : ["--rounds", rounds]),
    ...(turns === undefined ? [] : ["--turns", turns]),
    ...(size === undefined ? [] : ["--size", size]),
    ...(only === "" ? [] : ["--only", JSON.stringify(only)]),
    ...node.flatMap(() => ["--node", "PATH"]),
  ];
  return ["npm run bench", ...(options.length > 0 ? ["--", ...options] : [])].join(" ");
}

function isOurs(name: string): boolean {
  return subjects.some((subject) => subject.name === name && subject.kind === "sdk");
}

/** Prints progress to standard error, apart from the results. */
function report(line: string): void {
  console.error(line);
}

function positive(name: string, value: number): number {
  if (!Number.isSafeInteger(value) || value <= 0)
    throw new Failure(`${name}: expected a positive whole number`);
  return value;
}

function parseSize(text: string): number {
  const [, number, unit = ""] = /^(\d+)(|KiB|MiB|GiB)$/.exec(text) ?? [];
  return Number(number) * ({ KiB: 1024, MiB: MEBI, GiB: 1024 * MEBI }[unit] ?? 1);
}

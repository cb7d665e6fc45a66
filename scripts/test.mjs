// Runs the tests on every runtime and counts the results: Bun (the main runner, with coverage of
// src), Node 20 or newer, and Deno.
//
//     npm test                        everything
//     npm test -- node test/unit      one runtime, some files or folders
//     npm test -- all test/unit       every runtime, some files or folders
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleForNode } from "./node-bundles.mjs";
import { casesOf, complianceTables, countsOf, failureList, gapList } from "./test-report.mjs";

const MIN_COVERAGE_PERCENT = 90;
const root = fileURLToPath(new URL("..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "vortex-peer-test-"));
const bin = (name) => join(root, "node_modules", ".bin", name);

const runtimes = {
  bun: (files, report) => [
    bin("bun"),
    [
      "test",
      "--timeout=120000",
      "--coverage",
      "--coverage-reporter=lcov",
      `--coverage-dir=${scratch}`,
      "--reporter=junit",
      `--reporter-outfile=${report}`,
      ...files.map((file) => `./${file}`),
    ],
  ],
  node: (files, report) => [
    process.execPath,
    [
      "--enable-source-maps",
      "--test",
      // Applies to a whole file too; each test that waits has a separate deadline.
      "--test-timeout=300000",
      "--test-reporter=spec",
      "--test-reporter-destination=stdout",
      "--test-reporter=junit",
      `--test-reporter-destination=${report}`,
      ...files.map(bundles.bundleOf),
    ],
  ],
  deno: (files, report) => [
    bin("deno"),
    ["test", "--allow-all", "--unstable-net", "--no-check", `--junit-path=${report}`, ...files],
  ],
};

const [only, ...paths] = process.argv.slice(2);
const chosen = only === undefined || only === "all" ? Object.keys(runtimes) : [only];
if (chosen.some((name) => !(name in runtimes))) {
  throw new Error(`${only}: expected one of all, ${Object.keys(runtimes).join(", ")}`);
}
const files = (paths.length > 0 ? paths : ["test"]).flatMap(testFiles);
const totals = { passed: 0, failed: 0, skipped: 0 };
/** Test cases of each runtime. */
const runs = new Map();
// Tests on other runtimes start programs on Node too.
const bundles = await bundleForNode();
process.env.VORTEX_PEER_NODE_RUNNER = bundles.runner;

// In parallel, since all of them mostly wait for child processes. Bun's output is streamed; the
// others' is printed when they are done.
const ended = new Map(
  chosen.map((name, at) => [name, run(name, at === 0 ? undefined : join(scratch, `${name}.log`))]),
);
for (const name of chosen) {
  const { status, cases, output } = await ended.get(name);
  if (output !== undefined) process.stdout.write(`\n== ${name}\n${readFileSync(output, "utf8")}`);
  runs.set(name, cases);
  const counts = countsOf(cases);
  // A runner may fail without a failed test: a file that does not load, an unhandled rejection.
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  if (status === 0 && counts.passed === 0) counts.failed = 1;
  console.log(`${name}: ${line(counts)}`);
  for (const key of Object.keys(totals)) totals[key] += counts[key];
}
for (const table of complianceTables(runs)) console.log(`\n${table.join("\n")}`);
const gaps = gapList(runs);
if (gaps.length > 0) console.log(`\nskipped, and why:\n${gaps.join("\n")}`);
if (chosen.includes("bun") && paths.length === 0 && !reportCoverage()) totals.failed++;
// Printed last, so that a truncated log still has it.
const failures = failureList(runs);
if (failures.length > 0) console.log(`\nfailed:\n${failures.join("\n")}`);
rmSync(scratch, { recursive: true, force: true });
bundles.remove();
console.log(`\n${line(totals)}`);
process.exitCode = totals.failed === 0 ? 0 : 1;

/**
 * Runs the tests on one runtime. The runner's output goes to the file `output`, or to the terminal.
 */
async function run(name, output) {
  const command = runtimes[name];
  const report = join(scratch, `${name}.xml`);
  const [program, args] = command(files, report);
  if (output === undefined) console.log(`\n== ${name}`);
  const sink = output === undefined ? "inherit" : openSync(output, "w");
  const child = spawn(program, args, { cwd: root, stdio: ["inherit", sink, sink] });
  const [status] = await once(child, "close");
  if (typeof sink === "number") closeSync(sink);
  return { status, cases: existsSync(report) ? casesOf(readFileSync(report, "utf8")) : [], output };
}

function testFiles(path) {
  if (statSync(join(root, path)).isFile()) return [path];
  return readdirSync(join(root, path), { recursive: true })
    .map(String)
    .filter((file) => file.endsWith(".test.ts"))
    .map((file) => join(path, file))
    .sort();
}

function line({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

/** Prints the line coverage of src, as measured by Bun, and checks it against the minimum. */
function reportCoverage() {
  const lcov = join(scratch, "lcov.info");
  if (!existsSync(lcov)) return false;
  let found = 0;
  let hit = 0;
  const low = [];
  for (const record of readFileSync(lcov, "utf8").split("end_of_record")) {
    const file = /^SF:(.*)$/m.exec(record)?.[1];
    if (file === undefined) continue;
    const path = relative(root, join(root, file));
    if (!path.startsWith("src/") || path.startsWith("src/gen/")) continue;
    const lines = Number(/^LF:(\d+)$/m.exec(record)?.[1] ?? 0);
    const covered = Number(/^LH:(\d+)$/m.exec(record)?.[1] ?? 0);
    found += lines;
    hit += covered;
    if (lines > 0 && covered / lines < MIN_COVERAGE_PERCENT / 100)
      low.push(`${path} ${((100 * covered) / lines).toFixed(1)} %`);
  }
  const percent = found === 0 ? 0 : (100 * hit) / found;
  console.log(
    `\nline coverage of src: ${percent.toFixed(1)} % (${hit} of ${found} lines), minimum ${MIN_COVERAGE_PERCENT} %`,
  );
  if (low.length > 0) console.log(`below: ${low.join(", ")}`);
  return percent >= MIN_COVERAGE_PERCENT;
}

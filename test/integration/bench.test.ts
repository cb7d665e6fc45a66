/** The benchmark runs and its results are complete. Speed is not checked. */
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { describe, it, test } from "node:test";
import { CONTROL, entrySizes, importTables, measureImports } from "../../bench/import-time.ts";
import { withResults } from "../../bench/readme.ts";
import type { Results } from "../../bench/results.ts";
import type { Runtime } from "../../bench/runtimes.ts";
import { quantile, summarize } from "../../bench/statistics.ts";
import { targetsOf } from "../../bench/targets.ts";
import { runtimeName } from "../support/fixtures.ts";
import { root, runner, runToEnd } from "../support/run.ts";

const bench = [...runner, join(root, "bench/main.ts")];

describe("npm run bench", () => {
  it("measures every subject of this runtime and writes its results", {
    timeout: 300_000,
  }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "vortex-peer-test-"));
    const before = await leftovers();
    try {
      // All subjects with small pieces, and the quick ones with other sizes.
      const only = `^${runtimeName} .* (.* 64 KiB|tcp (4 MiB|16 KiB)|tcp first byte|quic-[a-z]+ first byte)`;
      const options = ["--quick", "--size", "64KiB", "--only", only, "--out", directory];
      const { code, out, err } = await runToEnd([...bench, ...options]);
      assert.equal(code, 0, err);
      const results = JSON.parse(await readFile(join(directory, "latest.json"), "utf8")) as Results;
      assertWhole(results, err);
      for (const { title } of results.rows) assert.ok(out.includes(`| ${title} |`), title);
      assert.match(out, /^\| target \|/m);
      const plot = await readFile(join(directory, "latest.svg"), "utf8");
      assertWellFormed(plot);
      assert.match(plot, />TCP<\/text>/);
      assert.deepEqual(await leftovers(), before);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });

  it("prints its results as JSON, and writes partial results only on request", {
    timeout: 120_000,
  }, async () => {
    const only = `^${runtimeName} .* raw-tcp 16 KiB`;
    const { code, out, err } = await runToEnd([
      ...bench,
      "--quick",
      "--size",
      "64KiB",
      "--only",
      only,
      "--json",
    ]);
    assert.equal(code, 0, err);
    const { rows, command } = JSON.parse(out) as Results;
    assert.deepEqual(
      rows.map(({ subject }) => subject),
      ["raw-tcp"],
    );
    assert.equal(command, `npm run bench -- --quick --size 64KiB --only ${JSON.stringify(only)}`);
    assert.doesNotMatch(err, /written to/);
  });

  it("reports invalid options in one line, and fails", {
    timeout: 120_000,
  }, async () => {
    for (const [options, words] of [
      [["--rounds", "0"], /^bench: --rounds: expected a positive whole number$/m],
      [["--import", "--turns", "0"], /^bench: --turns: expected a positive whole number$/m],
      [["--size", "12 parsecs"], /^bench: --size: expected a positive whole number$/m],
      [["--quick", "--only", "no such row"], /^bench: no row matches --only no such row$/m],
    ] as const) {
      const { code, out, err } = await runToEnd([...bench, ...options]);
      assert.deepEqual([code, out], [1, ""]);
      assert.match(err, words);
    }
  });
});

describe("npm run bench -- --import", () => {
  const command: Runtime["command"] = () => [process.execPath];
  const runtime: Runtime = { name: runtimeName, title: "this", version: "1.0", command };
  const light = 'import { lazily } from "./shared.js";\nawait lazily();\n';
  const shared = 'export const lazily = () => import("./late.js");\n';
  const late = 'export { join } from "node:path";\n';
  const bare = 'import "node:fs";\n';

  it("measures each entry beside an empty module, and tells early code from late code", async () => {
    await withPackage({ light, shared, late, bare }, async (directory) => {
      const turns: string[] = [];
      const rows = await measureImports([runtime], 3, (line) => turns.push(line), directory);
      assert.deepEqual(
        rows.map(({ entry }) => entry),
        [CONTROL, "./light", "./bare"],
      );
      assert.equal(turns.length, 4);
      const [control] = rows;
      assert.ok(control !== undefined && control.milliseconds.median > 0);
      // Nothing is added by the control itself: the other rows are compared with it.
      assert.equal(control.added, 0);
      for (const { milliseconds, added } of rows)
        assert.equal(added, milliseconds.median - control.milliseconds.median);

      const sizes = entrySizes(directory);
      assert.deepEqual(
        sizes.map(({ entry, bytes, lazy, imports }) => ({ entry, bytes, lazy, imports })),
        [
          { entry: "./light", bytes: light.length + shared.length, lazy: late.length, imports: [] },
          { entry: "./bare", bytes: bare.length, lazy: 0, imports: ["node:fs"] },
        ],
      );
      const table = importTables(rows, sizes).split("\n");
      assert.equal(table[0], "| entry, ms of import | this |");
      assert.match(table[2] ?? "", /^\| \(empty module\) \| \d+ \|$/);
      assert.match(table[3] ?? "", /^\| \.\/light \| \+-?\d+ \|$/);
      assert.match(table.at(-1) ?? "", /^\| \.\/bare \| \d+ \| \d+ \| 0 \| node:fs \|$/);
    });
  });

  it("fails when an entry is not built, or its import fails", async () => {
    await withPackage({ light, bare }, async (directory) => {
      await assert.rejects(
        measureImports([runtime], 1, () => {}, directory),
        /light\.js: expected exit code 0, got [1-9]/,
      );
      await rm(join(directory, "bare.js"));
      await assert.rejects(
        measureImports([runtime], 1, () => {}, directory),
        /bare\.js is missing: run npm run build first/,
      );
    });
  });
});

/** Calls `use` with the directory of a package with entries `light` and `bare`. */
async function withPackage(
  modules: Readonly<Record<string, string>>,
  use: (directory: string) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-peer-test-"));
  const exports = { "./light": { default: "./light.js" }, "./bare": { default: "./bare.js" } };
  try {
    await writeFile(join(directory, "package.json"), JSON.stringify({ type: "module", exports }));
    for (const [name, code] of Object.entries(modules))
      await writeFile(join(directory, `${name}.js`), code);
    await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

test("README shows the stored results", async () => {
  const readme = await readFile(join(root, "README.md"), "utf8");
  assert.equal(withResults(readme), readme, "run npm run bench, or bench/readme.ts's writeReadme");
  assert.throws(() => withResults("# Another"), /expected the markers <!--/);
});

test("a quantile lies between its neighbours", () => {
  assert.equal(quantile([1, 2, 3, 4], 0.5), 2.5);
  assert.equal(quantile([7], 0.99), 7);
  assert.deepEqual(summarize([3, 1, 2]), { median: 2, least: 1, most: 3 });
  assert.throws(() => quantile([], 0.5), RangeError);
});

test("targets compare runs of one round on one runtime, and skip unmeasured rows", () => {
  const row = (
    runtime: string,
    subject: string,
    rates: readonly number[],
  ): Results["rows"][number] => ({
    name: "",
    runtime,
    subject,
    title: subject,
    kind: "sdk",
    workload: "4 MiB ×1",
    runs: rates.map((rate, turn) => ({
      turn,
      rate,
      requestsPerSecond: rate,
      p50: 1,
      p99: 1,
      serverCpu: 1,
      clientCpu: 1,
      serverMemory: 1,
      clientMemory: 1,
    })),
  });
  // The machine halves its speed after the first round, and the other's third round failed.
  const targets = targetsOf(
    [
      row("bun 1.4", "tcp", [168, 42, 900]),
      row("bun 1.4", "raw-tcp", [200, 50]),
      row("node 20", "tcp", [1]),
    ],
    [],
  );
  assert.equal(targets.length, 1);
  const [target] = targets;
  assert.deepEqual(
    [target?.runtime, target?.value, target?.least, target?.met],
    ["bun 1.4", 0.84, 0.85, false],
  );
});

/** Asserts that each row has all figures or a reason, and that this library's rows did not fail. */
function assertWhole({ rows, firstBytes, runtimes }: Results, err: string): void {
  const names = rows
    .filter(({ workload }) => workload === "64 KiB ×32")
    .map(({ subject }) => subject);
  for (const name of ["tcp", "raw-tcp", "grpc", "grpc-shipped", "http"])
    assert.ok(names.includes(name), name);
  assert.ok(
    names.some((name) => name.startsWith("quic-")) &&
      names.some((name) => name.startsWith("bare-")),
  );
  assert.ok(Object.keys(runtimes).some((title) => title.startsWith(runtimeName)));
  for (const { name, kind, runs, summary, failure, missing } of rows) {
    if (failure !== undefined) {
      assert.ok(missing || kind === "grpc", `${name}: ${failure}\n${err}`);
      continue;
    }
    assert.equal(runs.length, 1);
    assert.ok(summary !== undefined);
    for (const [figure, { median, least, most }] of Object.entries(summary)) {
      assert.ok(Number.isFinite(median) && median >= 0, `${name}: ${figure} is ${median}`);
      assert.deepEqual([least, most], [median, median]);
    }
    assert.ok(
      summary.rate.median > 0 && summary.serverMemory.median > 0 && summary.clientMemory.median > 0,
    );
  }
  assert.ok(firstBytes.some(({ subject, how }) => subject === "tcp" && how === "cold"));
  for (const { name, subject, how, roundTrip, samples, failure, missing } of firstBytes) {
    if (missing) continue;
    assert.equal(failure, undefined, name);
    assert.equal(samples.length, 3);
    // The relay delays every byte. Only 0-RTT, ahead of the handshake, takes one round trip.
    const trips = subject === "tcp" || how !== "early" ? 2 : 1;
    // Timers may fire a few ms early.
    for (const sample of samples)
      assert.ok(sample >= trips * roundTrip - 5, `${name}: ${sample} ms`);
  }
}

/** Asserts that every SVG element is closed and all text is escaped. */
function assertWellFormed(svg: string): void {
  const open: string[] = [];
  const rest = svg.replaceAll(
    /<(\/?)([a-z]+)((?: [\w:-]+="[^"<&]*")*)(\/?)>/gi,
    (_tag, closing, name, _attributes, empty) => {
      if (closing === "/") assert.equal(open.pop(), name);
      else if (empty === "") open.push(name);
      return "";
    },
  );
  assert.deepEqual(open, []);
  assert.doesNotMatch(rest, /[<>]|&(?!amp;|lt;|gt;)/);
}

/** Lists bundles left by runs that have ended, which happens when a run is killed. */
async function leftovers(): Promise<string[]> {
  const names = await readdir(join(root, "node_modules/.cache")).catch(() => []);
  return names.filter((name) => {
    const [, pid] = /^vortex-peer-bench-(\d+)$/.exec(name) ?? [];
    if (pid === undefined) return false;
    try {
      process.kill(Number(pid), 0);
      return false;
    } catch {
      return true;
    }
  });
}

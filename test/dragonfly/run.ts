/** Runs the lab: `npm run test:dragonfly`. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Measurement } from "./measurements.ts";
import { type DfdaemonVersion, dfdaemonVersions, missingProgram } from "./programs.ts";
import { tableOf } from "./table.ts";

const HELP = `npm run test:dragonfly -- [VERSION…] [--full] [--write]
  Runs dfdaemons of each VERSION (default: all that are built) against this library.
  --full   all cases of all versions, 1 GiB included, on one runtime after the other, with a table
           of measurements; fails unless every VERSION (default: ${dfdaemonVersions.join(", ")}) is built
  --write  like --full, and writes the table to docs/measured/dragonfly.md`;

const root = fileURLToPath(new URL("../../", import.meta.url));
const page = join(root, "docs/measured/dragonfly.md");

try {
  process.exitCode = main();
} catch (error) {
  console.error(`test:dragonfly: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

function main(): number {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      full: { type: "boolean", default: false },
      write: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const named = positionals.map(requireVersion);
  const wanted = named.length > 0 ? named : dfdaemonVersions;
  const built = wanted.filter((version) => missingProgram(version) === undefined);
  const missing = wanted.filter((version) => !built.includes(version));
  const isFull = values.full || values.write;
  const required = isFull || named.length > 0;
  if (built.length === 0 || (required && missing.length > 0))
    throw new Error(
      `dfdaemon ${missing.join(", ")} is not built: npm run dragonfly:build -- ${missing.join(" ")}`,
    );
  if (!isFull) return runTests("all", built, {});
  const directory = mkdtempSync(join(tmpdir(), "vortex-peer-lab-results-"));
  try {
    const results = join(directory, "results");
    let failed = 0;
    // One after the other: concurrent runs would share the processor.
    for (const version of built.toReversed())
      for (const runtime of ["node", "bun", "deno"]) {
        const full = { VORTEX_PEER_LAB_FULL: "1", VORTEX_PEER_LAB_RESULTS: results };
        if (runTests(runtime, [version], full) !== 0) failed++;
      }
    const lines = existsSync(results) ? readFileSync(results, "utf8").trim().split("\n") : [];
    const table = tableOf(lines.map((line) => JSON.parse(line) as Measurement));
    console.log(`\n${table}`);
    if (values.write) writePage(table);
    return failed === 0 ? 0 : 1;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Runs the tests of some versions. Returns the exit code. */
function runTests(
  runtime: string,
  versions: readonly DfdaemonVersion[],
  env: Readonly<Record<string, string>>,
): number {
  console.log(
    `\ndfdaemon ${versions.join(", ")} on ${runtime === "all" ? "all runtimes" : runtime}`,
  );
  const { status } = spawnSync(
    process.execPath,
    [join(root, "scripts/test.mjs"), runtime, "test/dragonfly"],
    {
      cwd: root,
      stdio: "inherit",
      env: { ...process.env, ...env, VORTEX_PEER_LAB_VERSIONS: versions.join(",") },
    },
  );
  return status ?? 1;
}

function requireVersion(text: string): DfdaemonVersion {
  const version = dfdaemonVersions.find((one) => one === text);
  if (version === undefined)
    throw new Error(`version: expected one of ${dfdaemonVersions.join(", ")}, got ${text}`);
  return version;
}

/** Writes the page with the table. */
function writePage(table: string): void {
  const date = new Date().toISOString().slice(0, 10);
  const text = `# Measured against real Dragonfly

Written by \`npm run test:dragonfly -- --write\` on ${date}, with scheduler 2.5.1, on
${availableParallelism()} cores shared by all programs, over loopback. The load average over the last 15 minutes was
${loadavg()[2]?.toFixed(0)}, this run included. One download each, checked by SHA-256: the figures show what works and
the order of magnitude, and single runs vary widely.

- "from dfdaemon": this library fetches from a dfdaemon. "named": the address of the pieces is
  given; "discovered": only the address of the API is.
- "to dfdaemon": dfget makes a dfdaemon fetch, and its scheduler names a server of this library. The
  duration includes dfget and the scheduler.
- \`–\`: not possible or not tried on this runtime, see
  [Use beside a Dragonfly cluster](../dragonfly-cluster.md).

${table}
`;
  mkdirSync(dirname(page), { recursive: true });
  writeFileSync(page, text);
}

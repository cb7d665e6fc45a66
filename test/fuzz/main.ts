/**
 * Fuzzes all targets for a given time, shared evenly between them:
 *
 *     npm run fuzz -- --seconds 600 --seed 7 --only pool
 *
 * A failing case is printed with the seed that reproduces it. Add a named test for it.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { positive } from "../../bench/options.ts";
import { fuzz, targetNames } from "./targets.ts";

/** Number of cases between two checks of the elapsed time. */
const CASES_PER_BATCH = 50;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    only: { type: "string" },
  },
});
const chosen = values.only?.split(",") ?? targetNames;
const timePerTargetMs = (1000 * positive("--seconds", values.seconds)) / chosen.length;
const firstSeed = positive("--seed", values.seed);
console.log(`seed ${firstSeed}`);

let failures = 0;
for (const target of chosen) {
  const end = performance.now() + timePerTargetMs;
  let cases = 0;
  try {
    for (let seed = firstSeed; performance.now() < end; seed++) {
      await fuzz(target, seed, CASES_PER_BATCH);
      cases += CASES_PER_BATCH;
    }
    console.log(`${target}: ${cases} cases`);
  } catch (error) {
    console.log(`${target}: failed after ${cases} cases: ${describeError(error)}`);
    failures++;
  }
}
// Set only at the end: the `cli` target also uses `process.exitCode`.
if (failures > 0) process.exitCode = 1;

/** Formats an error and its chain of causes, one a line. */
function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error
    ? `${error.message}\n${describeError(error.cause)}`
    : error.message;
}

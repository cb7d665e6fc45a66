/**
 * Fuzzes for as long as it is told to: `npm run fuzz -- --seconds 600 --seed 7 --only pool`. The time is shared evenly between the
 * targets. A case that fails is printed with the seed that makes it again; it belongs into a test with a name.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { positive } from "../../bench/options.ts";
import { fuzz, targetNames } from "./targets.ts";

/** Cases between two looks at the clock. */
const BATCH = 50;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    only: { type: "string" },
  },
});
const chosen = values.only?.split(",") ?? targetNames;
const share = (1000 * positive("--seconds", values.seconds)) / chosen.length;
const first = positive("--seed", values.seed);
console.log(`seed ${first}`);

let failures = 0;
for (const target of chosen) {
  const end = performance.now() + share;
  let cases = 0;
  try {
    for (let seed = first; performance.now() < end; seed++) {
      await fuzz(target, seed, BATCH);
      cases += BATCH;
    }
    console.log(`${target}: ${cases} cases`);
  } catch (error) {
    console.log(`${target}: failed after ${cases} cases: ${told(error)}`);
    failures++;
  }
}
// Not before: the command line, which is a target, goes by it too.
if (failures > 0) process.exitCode = 1;

/** The case, and what went wrong with it. */
function told(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message}\n${told(error.cause)}` : error.message;
}

import { describe, it } from "node:test";
import { fuzz, targetNames } from "./targets.ts";

/** Number of cases of each target, for a short run. `npm run fuzz` runs more. */
const CASES_PER_TARGET = 40;
const SEED = 20_260_722;

describe("fuzz", () => {
  for (const target of targetNames)
    it(target, { timeout: 120_000 }, () => fuzz(target, SEED, CASES_PER_TARGET));
});

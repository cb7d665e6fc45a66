import { describe, it } from "node:test";
import { fuzz, targetNames } from "./targets.ts";

/** Cases of each target: a look. `npm run fuzz` is the long form. */
const CASES = 40;
const SEED = 20_260_722;

describe("fuzz", () => {
  for (const target of targetNames)
    it(target, { timeout: 120_000 }, () => fuzz(target, SEED, CASES));
});

// Checks the subject of a commit message, for .githooks/commit-msg:
// node --import tsx scripts/lint-commit.mjs FILE
import { readFileSync } from "node:fs";
import { checkSubject } from "./lint/rules.ts";

const [, , file] = process.argv;
const problems = checkSubject(readFileSync(file, "utf8"));
for (const problem of problems) console.error(`commit message: ${problem}`);
process.exitCode = problems.length === 0 ? 0 : 1;

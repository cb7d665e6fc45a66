// Checks the language of comments, texts and pages, see lint/rules.ts, and the form of errors, see
// lint/errors.ts. Prints each violation with its file and line, and fails if there is one.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { checkErrors } from "./lint/errors.ts";
import { checkCode, checkMarkdown } from "./lint/sources.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
/** Files that hold the banned phrases as data. */
const EXEMPT = ["scripts/lint/rules.ts", "test/unit/project/lint.test.ts"];

const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: root,
  encoding: "utf8",
})
  .split("\n")
  .filter((file) => /\.(?:ts|mjs|md)$/.test(file))
  .filter((file) => !file.startsWith("src/gen/") && !EXEMPT.includes(file));
let count = 0;
for (const file of files) {
  const source = readFileSync(join(root, file), "utf8");
  const violations = file.endsWith(".md") ? checkMarkdown(source) : checkCode(source);
  if (/^(?:src|adapters|cli|entry)\//.test(file)) violations.push(...checkErrors(source));
  for (const { line, rule, message } of violations)
    console.log(`${file}:${line}: ${rule}: ${message}`);
  count += violations.length;
}
console.log(`${files.length} files, ${count} violations`);
process.exitCode = count === 0 ? 0 : 1;

// Checks the language of comments, texts and pages (lint/rules.ts), and the form of errors
// (lint/errors.ts).
//
// npm run lint              fails for a file with more violations than scripts/lint/baseline.json
// allows
//     npm run lint -- --all     prints every violation
//     npm run lint -- --update  writes the baseline, which may only shrink; an empty one is removed
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { checkErrors } from "./lint/errors.ts";
import { checkCode, checkMarkdown } from "./lint/sources.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const baselineFile = join(root, "scripts/lint/baseline.json");
const flags = new Set(process.argv.slice(2));

const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: root,
  encoding: "utf8",
})
  .split("\n")
  .filter((file) => /\.(?:ts|mjs|md)$/.test(file) && !file.startsWith("src/gen/"));
const baseline = JSON.parse(readFileSync(baselineFile, "utf8"));
const counts = {};
let failed = false;
for (const file of files) {
  const source = readFileSync(join(root, file), "utf8");
  const violations = file.endsWith(".md") ? checkMarkdown(source) : checkCode(source);
  if (/^(?:src|adapters|cli|entry)\//.test(file)) violations.push(...checkErrors(source));
  const allowed = baseline[file] ?? 0;
  if (violations.length > 0) counts[file] = violations.length;
  const tooMany = violations.length > allowed;
  if (tooMany) failed = true;
  if (flags.has("--update") || (!tooMany && !flags.has("--all"))) continue;
  if (tooMany && allowed > 0)
    console.log(`${file}: ${violations.length} violations, ${allowed} before:`);
  for (const { line, rule, message } of violations)
    console.log(`${file}:${line}: ${rule}: ${message}`);
}
if (flags.has("--update")) {
  writeFileSync(baselineFile, `${JSON.stringify(counts, null, 2)}\n`);
} else {
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  console.log(
    `${files.length} files, ${total} violations, ${failed ? "more" : "no more"} than before`,
  );
  process.exitCode = failed ? 1 : 0;
}

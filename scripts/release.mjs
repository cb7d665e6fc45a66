// Prepares a release without publishing it. Raises the version in every manifest, dates the
// unreleased part of CHANGELOG, checks, packs, commits and tags. Prints the remaining manual steps.
//
//     npm run release -- patch|minor|major|1.2.3
//     npm run release -- minor --dry-run        prints the changes without making them
//     npm run release -- minor --skip-check     for a tree that CI has checked
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { nextVersion, released, releasedFiles } from "./package/release.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { "dry-run": { type: "boolean" }, "skip-check": { type: "boolean" } },
});
const npm = JSON.parse(readFileSync(`${root}package.json`, "utf8"));
const version = nextVersion(
  npm.version,
  positionals[0],
  readFileSync(`${root}CHANGELOG.md`, "utf8"),
);
const date = new Date().toISOString().slice(0, 10);

if (!values["dry-run"] && git("status", "--porcelain").trim() !== "")
  throw new Error("the working tree has changes");
console.log(`${npm.version} -> ${version}, ${date}`);
// All texts are computed before the first is written. A file without a version then leaves the
// others unchanged.
const texts = releasedFiles.map((file) => [
  file,
  released(file, readFileSync(root + file, "utf8"), version, date),
]);
for (const [file, text] of texts) {
  console.log(`${file}: ${text === readFileSync(root + file, "utf8") ? "stays" : "changes"}`);
  if (!values["dry-run"]) writeFileSync(root + file, text);
}
if (!values["dry-run"]) finish();

function finish() {
  try {
    if (!values["skip-check"]) run("npm", "run", "release:check");
    run("npm", "run", "--silent", "build");
    run("npm", "pack", "--ignore-scripts");
  } catch (error) {
    git("checkout", "--", ...releasedFiles);
    throw error;
  }
  git("commit", "--all", `--message=${version}`);
  git("tag", "--annotate", `v${version}`, `--message=${version}`);
  console.log(
    `tagged v${version}; to publish: git push --follow-tags, npm publish ${npm.name}-${version}.tgz, deno publish`,
  );
}

function git(...args) {
  return execFileSync("git", args, { cwd: root, encoding: "utf8" });
}

function run(program, ...args) {
  const { status } = spawnSync(program, args, {
    cwd: root,
    stdio: "inherit",
    shell: process.platform === "win32",
  });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${status}`);
}

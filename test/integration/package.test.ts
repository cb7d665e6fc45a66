/**
 * `npm run release` on a copy of the project: the changes, package and tag, and a clean copy after
 * a failure.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { it } from "node:test";
import { fileURLToPath } from "node:url";
import { publishedFolders } from "../../scripts/package/manifests.ts";
import { runtimeName } from "../support/fixtures.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const parts = [
  "package.json",
  "package-lock.json",
  "deno.json",
  "tsdown.config.mjs",
  "tsconfig.json",
  "README.md",
  "LICENSE",
];
// npm runs the script on Node, whatever runs the tests.
const gap = runtimeName === "node" ? "" : " [gap: the script runs on Node]";

it(`a release raises the version everywhere, packs and tags it${gap}`, { skip: gap !== "" }, () =>
  inCopy((copy, git, release) => {
    const { status, output } = release("9.0.0", "--skip-check");
    assert.equal(status, 0, output);
    assert.equal(git("tag").trim(), "v9.0.0");
    assert.equal(git("log", "-1", "--format=%s").trim(), "9.0.0");
    for (const file of ["package.json", "deno.json"])
      assert.equal(JSON.parse(readFileSync(join(copy, file), "utf8")).version, "9.0.0");
    assert.match(
      readFileSync(join(copy, "CHANGELOG.md"), "utf8"),
      /^## 9\.0\.0, \d{4}-\d\d-\d\d\n\n- New\.$/m,
    );
    assert.ok(existsSync(join(copy, "vortex-peer-9.0.0.tgz")));
    assert.equal(git("status", "--porcelain"), "");
  }),
);

it(`a dry run and a failed release change nothing${gap}`, { skip: gap !== "" }, () =>
  inCopy((copy, git, release) => {
    assert.equal(release("minor", "--dry-run").status, 0);
    assert.equal(git("status", "--porcelain"), "");
    assert.notEqual(release("0.0.1", "--skip-check").status, 0);
    writeFileSync(
      join(copy, "tsdown.config.mjs"),
      "export default { entry: { none: 'none.ts' } };\n",
    );
    assert.match(release("minor", "--skip-check").output, /working tree has changes/);
    git("commit", "--all", "--message=broken");
    assert.notEqual(release("minor", "--skip-check").status, 0);
    assert.equal(git("status", "--porcelain"), "");
    assert.equal(git("tag"), "");
  }),
);

type Git = (...args: string[]) => string;
type Release = (...args: string[]) => { readonly status: number | null; readonly output: string };

function inCopy(run: (copy: string, git: Git, release: Release) => void): void {
  const copy = mkdtempSync(join(tmpdir(), "vortex-peer-release-"));
  try {
    for (const part of [...parts, ...publishedFolders, "scripts"])
      cpSync(join(root, part), join(copy, part), { recursive: true });
    writeFileSync(join(copy, "CHANGELOG.md"), "# Changelog\n\n## Unreleased\n\n- New.\n");
    writeFileSync(join(copy, ".gitignore"), "node_modules\ndist\n*.tgz\n");
    symlinkSync(join(root, "node_modules"), join(copy, "node_modules"), "junction");

    const env = {
      ...process.env,
      GIT_AUTHOR_NAME: "test",
      GIT_AUTHOR_EMAIL: "test@example.org",
      GIT_COMMITTER_NAME: "test",
      GIT_COMMITTER_EMAIL: "test@example.org",
    };
    const git: Git = (...args) => execFileSync("git", args, { cwd: copy, encoding: "utf8", env });
    git("init", "--quiet");
    git("add", "--all");
    git("commit", "--quiet", "--message=before");
    run(copy, git, (...args) => {
      const command = ["--import", "tsx", "scripts/release.mjs", ...args];
      const { status, stdout, stderr } = spawnSync(process.execPath, command, {
        cwd: copy,
        encoding: "utf8",
        env,
      });
      return { status, output: stdout + stderr };
    });
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

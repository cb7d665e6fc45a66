/**
 * Tests that the package's manifests agree, that disagreements are found, and the files of a
 * release.
 */
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { disagreements, publishedFolders } from "../../../scripts/package/manifests.ts";
import { nextVersion, released, releasedFiles } from "../../../scripts/package/release.ts";

const root = fileURLToPath(new URL("../../../", import.meta.url));

describe("the README", () => {
  it("links only to files that the package contains", () => {
    const { files } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      readonly files: readonly string[];
    };
    const readme = readFileSync(join(root, "README.md"), "utf8");
    const links = [...readme.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, link = ""]) => link);
    assert.ok(links.length > 5);
    for (const link of links) {
      const packed = files.some(
        (file) =>
          file === link ||
          link.startsWith(`${file}/`) ||
          (file === "docs/*.md" && /^docs\/[^/]+\.md$/.test(link)),
      );
      // The results of the benchmarks are too large for the package.
      assert.ok(packed || link.startsWith("bench/results/"), link);
      assert.ok(existsSync(join(root, link)), link);
    }
  });
});

describe("the manifests", () => {
  it("agree", async () => {
    assert.deepEqual(await disagreements(root), []);
  });

  const changes: [what: string, file: string, from: string, to: string, problem: RegExp][] = [
    ["another version on JSR", "deno.json", '"version": "', '"version": "9', /deno\.json of 9/],
    [
      "another version on the command line",
      "cli/version.ts",
      'version = "',
      'version = "9',
      /version\.ts of 9/,
    ],
    [
      "a subpath that JSR lacks",
      "deno.json",
      '"./tcp"',
      '"./tcps"',
      /\.\/tcp: deno\.json has undefined/,
    ],
    [
      "a subpath that npm lacks",
      "package.json",
      '"./tcp": {',
      '"./tcps": {',
      /\.\/tcp is in deno\.json and not/,
    ],
    [
      "another source",
      "deno.json",
      "./entry/tcp.ts",
      "./entry/grpc.ts",
      /built of \.\/entry\/tcp\.ts/,
    ],
    [
      "an entry that is not built",
      "tsdown.config.mjs",
      "tcp: ",
      "udp: ",
      /\.\/tcp: nothing builds/,
    ],
    [
      "an import that is no dependency",
      "package.json",
      '"crc-32"',
      '"crc-33"',
      /crc-32 is imported and no dependency/,
    ],
    [
      "an exact version of a dependency",
      "package.json",
      '"valibot": "^',
      '"valibot": "',
      /valibot: expected a version such as \^1\.2\.3, got \d/,
    ],
    [
      "a range that admits a version that does not run on Node 20",
      "package.json",
      '"@connectrpc/connect-node": "~',
      '"@connectrpc/connect-node": "^',
      /connect-node: expected a version such as ~1\.2\.3, got \^/,
    ],
    [
      "a range for an internal binding",
      "package.json",
      '"@matrixai/quic": "',
      '"@matrixai/quic": "^',
      /@matrixai\/quic: expected a version such as 1\.2\.3, got \^/,
    ],
    [
      "a development dependency's range",
      "package.json",
      '"tsdown": "',
      '"tsdown": "^',
      /tsdown: expected a version such as 1\.2\.3, got \^/,
    ],
  ];
  for (const [what, file, from, to, problem] of changes) {
    it(`a difference is found: ${what}`, async () => {
      const copy = mkdtempSync(join(tmpdir(), "vortex-peer-manifests-"));
      try {
        for (const part of ["package.json", "deno.json", "tsdown.config.mjs", ...publishedFolders])
          cpSync(join(root, part), join(copy, part), { recursive: true });
        const text = readFileSync(join(copy, file), "utf8");
        assert.ok(text.includes(from));
        writeFileSync(join(copy, file), text.replace(from, to));
        const problems = await disagreements(copy);
        assert.ok(
          problems.some((found) => problem.test(found)),
          problems.join("; "),
        );
      } finally {
        rmSync(copy, { recursive: true, force: true });
      }
    });
  }
});

describe("a release", () => {
  for (const [step, version] of [
    ["patch", "1.2.4"],
    ["minor", "1.3.0"],
    ["major", "2.0.0"],
    ["1.2.10", "1.2.10"],
  ] as const)
    it(`${step} after 1.2.3 is ${version}`, () =>
      assert.equal(nextVersion("1.2.3", step, ""), version));

  for (const step of [undefined, "1.2", "v2.0.0", "1.2.3", "1.2.2", "0.9.9", "huge"])
    it(`${step} after 1.2.3 is rejected`, () =>
      assert.throws(() => nextVersion("1.2.3", step, "## Unreleased")));

  it("keeps the version of an unreleased first version", () => {
    assert.equal(nextVersion("0.1.0", "0.1.0", "# Changelog\n\n## 0.1.0, unreleased\n"), "0.1.0");
  });

  it("sets its version and date in every file, and changes nothing else", () => {
    for (const file of releasedFiles.filter((name) => name !== "CHANGELOG.md")) {
      const before = readFileSync(join(root, file), "utf8");
      const after = released(file, before, "98.7.6", "2030-01-02");
      assert.match(after, /"98\.7\.6"/, file);
      const current = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version;
      assert.equal(after.replaceAll("98.7.6", current), before, file);
    }
    const log = released(
      "CHANGELOG.md",
      "# Changelog\n\n## Unreleased\n\n- New.\n",
      "98.7.6",
      "2030-01-02",
    );
    assert.equal(log, "# Changelog\n\n## 98.7.6, 2030-01-02\n\n- New.\n");
  });

  it("fails without unreleased changes", () => {
    assert.throws(
      () =>
        released("CHANGELOG.md", "# Changelog\n\n## 1.0.0, 2030-01-01\n", "1.0.1", "2030-01-02"),
      /nothing/,
    );
  });
});

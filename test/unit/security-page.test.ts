import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** A file of tests in backticks, and after `>` a test in it, to the end of the cell or the bracket. */
const named = /`(test\/[^`]+)` > ([^|)\n]+)/g;

describe("SECURITY.md", () => {
  const page = readFileSync(`${root}/SECURITY.md`, "utf8");
  const tests = [...page.matchAll(named)];

  it("names tests", () => {
    assert.ok(tests.length > 10, `${tests.length} found`);
  });

  for (const [, file = "", name = ""] of tests) {
    it(`${file} has: ${name.trim()}`, () => {
      assert.ok(existsSync(`${root}/${file}`), "there is no such file");
      // The beginning of a name is enough, since the rest may be made of a table.
      const source = readFileSync(`${root}/${file}`, "utf8");
      assert.ok(
        ["`", '"'].some((quote) => source.includes(quote + name.trim())),
        "there is no such test",
      );
    });
  }
});

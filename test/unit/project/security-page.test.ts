import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import { serverSettings } from "../../../src/server/admission/upload.ts";

const root = fileURLToPath(new URL("../../..", import.meta.url));
/** Matches a default on the page: a number, its unit, and its option in backticks. */
const limit = /([\d,]+)(?: (KiB|MiB|s))?\b[^`;.]*?\(`(\w+)`\)/g;
const units: Readonly<Record<string, number>> = { KiB: 1024, MiB: 1024 * 1024, s: 1000 };
/** Options that limit peers, with their defaults, by the section of the page that lists them. */
const limits = {
  "Who uses a client": pickFrom(downloaderSettings({}, portableRuntime), [
    "maxPieceLength",
    "maxMetadataLength",
    "connectTimeout",
    "pieceTimeout",
    "stallTimeout",
  ]),
  "Who operates a server": pickFrom(serverSettings({}, portableRuntime), [
    "maxConnections",
    "maxStreams",
    "maxTaskStreams",
    "maxPendingBytes",
    "requestTimeout",
    "stallTimeout",
  ]),
};
/**
 * Matches a test file in backticks, and after `>` the title of a test, up to the end of the cell.
 */
const named = /`(test\/[^`]+)` > ([^|)\n]+)/g;

describe("SECURITY.md", () => {
  const page = readFileSync(`${root}/SECURITY.md`, "utf8");
  const tests = [...page.matchAll(named)];

  it("names tests", () => {
    assert.ok(tests.length > 10, `${tests.length} found`);
  });

  for (const [part, defaults] of Object.entries(limits)) {
    it(`has the limits of the code: ${part}`, () => {
      const [, text = ""] = page.split(`## ${part}\n`);
      const [, paragraph = ""] = /^Limits and their defaults: ([\s\S]*?)\n\n/m.exec(text) ?? [];
      const listed = [...paragraph.matchAll(limit)].map(([, number = "", unit = "", name]) => [
        name,
        Number(number.replaceAll(",", "")) * (units[unit] ?? 1),
      ]);
      assert.deepEqual(Object.fromEntries(listed), defaults);
    });
  }

  for (const [, file = "", name = ""] of tests) {
    it(`${file} has: ${name.trim()}`, () => {
      assert.ok(existsSync(`${root}/${file}`), "no such file");
      // The start of a title is enough, because the rest may come from a table.
      const source = sourceOf(file);
      assert.ok(
        ["`", '"'].some((quote) => source.includes(quote + name.trim())),
        "no such test",
      );
    });
  }
});

/** Returns the source of a test file and of the tables of cases that it imports. */
function sourceOf(file: string): string {
  const source = readFileSync(`${root}/${file}`, "utf8");
  const tables = [...source.matchAll(/from "((?:\.\.\/)+(?:support|bench\/hostile)\/[^"]+)"/g)].map(
    ([, path = ""]) => readFileSync(`${root}/${dirname(file)}/${path}`, "utf8"),
  );
  return [source, ...tables].join("\n");
}

function pickFrom<T, K extends keyof T>(from: T, names: readonly K[]): Pick<T, K> {
  return Object.fromEntries(names.map((name) => [name, from[name]])) as Pick<T, K>;
}

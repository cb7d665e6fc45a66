import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type EntryExports, exportsOf } from "../../../scripts/package/exports.ts";
import { root } from "../../support/run.ts";

/** Entries of `vortex-peer` itself, which a runtime or bundler selects. */
const roots = ["entry/node.ts", "entry/bun.ts", "entry/deno.ts", "entry/workers.ts"];

const subpaths = [
  "entry/core.ts",
  "entry/tasks.ts",
  "entry/config.ts",
  "entry/files.ts",
  "entry/grpc.ts",
  "entry/ids.ts",
  "entry/tcp.ts",
  "entry/quiche.ts",
  "entry/node-quic.ts",
  "entry/deno-quic.ts",
  "entry/opentelemetry.ts",
];

/** Maximum number of exports of a root entry. */
const MAX_ROOT_EXPORTS = 80;

/** Types that need not be exported, with the reason. */
const exempt: Record<string, string> = {
  Names: "computes the names of keys from the type of the configuration",
  ValueAt: "computes the type of a key from the type of the configuration",
  Context: "describes a part of @opentelemetry/api",
  HeaderGetter: "describes a part of @opentelemetry/api",
  Meter: "describes a part of @opentelemetry/api",
  Span: "describes a part of @opentelemetry/api",
  SpanOptions: "describes a part of @opentelemetry/api",
  DownloadPieceFinishedResponse: "generated from the Dragonfly API",
  StartedCase: "generated from the Dragonfly API",
};

/** Types that are exported although no signature mentions them, with the reason. */
const unmentioned: Record<string, string> = {
  ConfigProblem: "type of the errors under the cause of a rejected configuration",
};

describe("the exported types", () => {
  const all: ReadonlyMap<string, EntryExports> = exportsOf(root, [...roots, ...subpaths]);

  for (const entry of roots) {
    it(`${entry} exports at most ${MAX_ROOT_EXPORTS} names`, () => {
      const names = all.get(entry)?.names ?? [];
      assert.ok(names.length > 0 && names.length <= MAX_ROOT_EXPORTS, `${names.length} names`);
    });
  }

  for (const [entry, { missing, unreachable }] of all) {
    it(`${entry} exports each type that its signatures mention, and no other`, () => {
      const nameOf = (found: string): string => found.split(" ")[0] ?? found;
      assert.deepEqual(
        missing.filter((found) => !Object.hasOwn(exempt, nameOf(found))),
        [],
      );
      assert.deepEqual(
        unreachable.filter((name) => !Object.hasOwn(unmentioned, name)),
        [],
      );
    });
  }

  it("finds a type that is missing, and one that no signature mentions", () => {
    const found = exportsOf(root, ["test/support/incomplete-exports.ts"]);
    const { names, missing, unreachable } = found.get("test/support/incomplete-exports.ts") ?? {};
    assert.deepEqual(names, ["Unused", "open"]);
    assert.deepEqual(missing, ["Options (in open)"]);
    assert.deepEqual(unreachable, ["Unused"]);
  });
});

/**
 * The weight of an import, without measuring time: what the entry points load at once, and what
 * only at its first use.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { posix } from "node:path";
import { describe, it } from "node:test";
import { root, runner, runToEnd } from "../../support/run.ts";
import { scan } from "../../support/source-scanner.ts";

/** Entry points that must be light. */
const lightEntries = [
  "entry/node.ts",
  "entry/bun.ts",
  "entry/deno.ts",
  "entry/workers.ts",
  "entry/runtime-api.ts",
  "entry/node-api.ts",
  "entry/bun-api.ts",
  "entry/deno-api.ts",
  "entry/tcp.ts",
  "entry/tasks.ts",
  "entry/files.ts",
  "entry/quiche.ts",
  "entry/deno-quic.ts",
  "entry/node-quic.ts",
];

/** Packages and modules that are loaded at first use only: a name, or a folder that ends in `/`. */
const lateModules = [
  "@connectrpc/",
  "@bufbuild/",
  "@matrixai/",
  "@node-rs/",
  "@opentelemetry/",
  "commander",
  "selfsigned",
  "valibot",
  "yaml",
  "node:dgram",
  "node:http2",
  "node:tls",
  "src/gen/",
  "src/config/",
  "src/client/grpc/client.ts",
  "src/server/grpc/",
  "adapters/grpc/",
  "adapters/shared/tls.ts",
  "adapters/quiche/transport.ts",
  "adapters/deno-quic/transport.ts",
  "adapters/node-quic/transport.ts",
  "adapters/files/config-file.ts",
];

describe("the modules that an import loads at once", () => {
  for (const entry of lightEntries) {
    it(`${entry} loads none of those for the first use`, () => {
      assert.deepEqual(loadedBy(entry).filter(isLate), []);
    });
  }

  it("include all those for the first use in the entries that offer them", () => {
    const loaded = ["grpc", "config"].flatMap((name) => loadedBy(`entry/${name}.ts`));
    for (const name of ["@connectrpc/connect", "@bufbuild/protobuf", "valibot", "node:http2"])
      assert.ok(loaded.includes(name) && isLate(name), name);
    for (const path of ["src/gen/dfdaemon/v2/dfdaemon_pb.ts", "src/client/grpc/client.ts"])
      assert.ok(loaded.includes(path) && isLate(path), path);
  });

  it("are found in every form of import, without types and dynamic imports", () => {
    const code = [
      'import "a";',
      'import b, { type B } from "b";',
      'export * from "c";',
      'export { d } from "d";',
      'import type { E } from "e";',
      'export type { F } from "f";',
      'const g = await import("g");',
      'import type from "h";',
    ];
    assert.deepEqual(scan(code.join("\n")).loads, ["a", "b", "c", "d", "h"]);
  });
});

it("a downloader loads gRPC only when it uses gRPC", { timeout: 60_000 }, async () => {
  const { code, out, err } = await runToEnd([...runner, `${root}test/support/lazy-use.ts`]);
  assert.equal(code, 0, err);
  assert.deepEqual(out.trim().split("\n"), [
    "imported: false",
    "a piece over TCP: false",
    "a task of known layout over TCP: false",
    "statTask, ConnectionRefused: true",
  ]);
});

/** Returns the modules that an import of `entry` loads: paths in this repository, and packages. */
function loadedBy(entry: string): string[] {
  const loaded = new Set([entry]);
  // A set also visits the elements that are added meanwhile.
  for (const path of loaded) {
    if (!path.endsWith(".ts")) continue;
    for (const specifier of scan(readFileSync(`${root}${path}`, "utf8")).loads)
      loaded.add(
        specifier.startsWith(".") ? posix.join(posix.dirname(path), specifier) : specifier,
      );
  }
  return [...loaded];
}

function isLate(module: string): boolean {
  return lateModules.some((late) =>
    late.endsWith("/") ? module.startsWith(late) : module === late || module.startsWith(`${late}/`),
  );
}

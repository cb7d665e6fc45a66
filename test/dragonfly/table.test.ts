import assert from "node:assert/strict";
import { it } from "node:test";
import { tableOf } from "./table.ts";

it("the table has a row for each version, direction, protocol and length, newest first", () => {
  const old = {
    version: "1.5.2",
    direction: "to dfdaemon",
    protocol: "tcp",
    pieces: 24,
    length: 100_000_000,
    duration: 1000,
  } as const;
  const gibibyte = { length: 1024 ** 3, pieces: 256, duration: 2000 };
  const table = tableOf([
    { ...old, runtime: "node" },
    { ...old, ...gibibyte, version: "1.5.10", runtime: "bun" },
    { ...old, version: "1.5.10", runtime: "deno" },
    { ...old, version: "1.5.10", runtime: "node", duration: 400 },
  ]);
  assert.deepEqual(table.split("\n").slice(2), [
    "| 1.5.10 | to dfdaemon | tcp | 100 MB | 24 | 250 | – | 100 |",
    "| 1.5.10 | to dfdaemon | tcp | 1 GiB | 256 | – | 537 | – |",
    "| 1.5.2 | to dfdaemon | tcp | 100 MB | 24 | 100 | – | – |",
  ]);
});

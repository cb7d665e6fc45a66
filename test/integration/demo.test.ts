import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { seededBytes } from "../support/random.ts";
import { root, runner, runToEnd } from "../support/run.ts";

const demo = [...runner, join(root, "demo/main.ts")];

test("the demo fetches a generated file over every protocol, and ends with a table", async () => {
  const { code, out, err } = await runToEnd([...demo, "--size", "9MiB"]);
  assert.deepEqual([code, err], [0, ""], out);
  for (const protocol of ["quic", "tcp", "grpc"]) {
    assert.match(out, new RegExp(`^${protocol} +${9 * 1024 * 1024} .* ok *$`, "m"));
  }
});

test("the demo accepts the user's file", async () => {
  const directory = await mkdtemp(join(tmpdir(), "vortex-peer-test-"));
  try {
    const content = seededBytes(7, 4_194_305);
    await writeFile(join(directory, "file"), content);
    const { code, out, err } = await runToEnd([...demo, join(directory, "file")]);
    assert.deepEqual([code, err], [0, ""], out);
    const digest = createHash("sha256").update(content).digest("hex");
    assert.equal(out.split(`sha256 ${digest.slice(0, 16)}… ok`).length, 4);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

test("the demo reports an error in one line, and fails", async () => {
  const { code, err } = await runToEnd([...demo, join(root, "no-such-file")]);
  assert.equal(code, 1);
  assert.match(err, /^demo failed: .*no-such-file.*\n$/);
});

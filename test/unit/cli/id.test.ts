import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { hostId, taskIdOfUrl } from "../../../src/ids.ts";
import { failing, inTempDir, type RunOptions, run } from "../../support/cli.ts";

const vectors = JSON.parse(
  readFileSync(new URL("../../vectors/ids.json", import.meta.url), "utf8"),
);

/** Runs `vortex-peer id` and returns its output. */
async function id(args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { code, out, err } = await run(failing("Internal"), ["id", ...args], options);
  assert.deepEqual([code, err], [0, ""], args.join(" "));
  return out.text.trimEnd();
}

/** Converts an object's properties to command-line options. */
function flagsOf(identity: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(identity).flatMap(([key, value]) =>
    (Array.isArray(value) ? value : [value]).flatMap((one) => [
      `--${key.replace(/s$/, "").replace(/[A-Z]/g, (upper) => `-${upper.toLowerCase()}`)}`,
      String(one),
    ]),
  );
}

describe("vortex-peer id", () => {
  it("derives the id of a task from its origin like dfdaemon", async () => {
    for (const { url, taskId, error, ...identity } of vectors.url) {
      const args = ["url", ...flagsOf(identity), "--", url];
      if (error === undefined) assert.equal(await id(args), taskId, JSON.stringify(identity));
      else assert.equal((await run(failing("Internal"), ["id", ...args])).code, 2);
    }
    const signed = "https://bucket.s3.amazonaws.com/key?X-Amz-Signature=1&versionId=2";
    assert.equal(
      await id(["url", signed, "--default-filtered-query-params"]),
      taskIdOfUrl({ url: "https://bucket.s3.amazonaws.com/key?versionId=2" }),
    );
    assert.deepEqual(JSON.parse(await id(["url", "https://example.com", "--json"])), {
      taskId: taskIdOfUrl({ url: "https://example.com" }),
      kind: "standard",
    });
  });

  it("derives ids from an OCI blob, an object, and the content of a persistent cache task", async () => {
    for (const { url, taskId } of vectors.blob) {
      if (taskId === undefined)
        assert.equal((await run(failing("Internal"), ["id", "blob", url])).code, 2);
      else assert.equal(await id(["blob", url]), taskId);
    }
    for (const { taskId, url, ...identity } of vectors.persistent) {
      assert.equal(await id(["persistent", url, ...flagsOf(identity)]), taskId);
    }
    for (const { content, taskId, ...identity } of vectors.persistentCache) {
      assert.equal(
        await id(["persistent-cache", ...flagsOf(identity)], { stdin: content }),
        taskId,
      );
    }
  });

  it("derives the id of content from standard input and from a file", () =>
    inTempDir(async (dir) => {
      const file = join(dir, "content");
      for (const { content, taskId } of vectors.content) {
        await writeFile(file, content);
        assert.equal(await id(["content", file]), taskId);
        assert.equal(await id(["content"], { stdin: content }), taskId);
        assert.deepEqual(JSON.parse(await id(["content", "-", "--json"], { stdin: content })), {
          taskId,
          kind: "standard",
        });
      }
      const { code, err } = await run(failing("Internal"), ["id", "content", join(dir, "missing")]);
      assert.equal(code, 7);
      assert.match(err, /^vortex-peer: StorageFailed: cannot read \S*missing: .*\n$/);
    }));

  it("derives host ids and creates peer ids", async () => {
    assert.equal(await id(["host", "--ip", "10.0.0.7", "--hostname", "node-1"]), "10.0.0.7-node-1");
    assert.equal(
      await id(["host", "--ip", "10.0.0.7", "--hostname", "node-1", "--seed"]),
      "10.0.0.7-node-1-seed",
    );
    assert.equal(await id(["host", "--ip", "::1"]), hostId({ ip: "::1", hostname: hostname() }));
    const peer = await id(["peer", "--ip", "10.0.0.7", "--hostname", "node-1", "--json"]);
    assert.match(
      JSON.parse(peer).peerId,
      /^10\.0\.0\.7-node-1-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
  });
});

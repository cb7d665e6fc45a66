import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import {
  defaultFilteredQueryParams,
  hostId,
  taskIdOfContent,
  taskIdOfUrl,
} from "../../../src/ids.ts";
import { failing, inTempDir, type RunOptions, run } from "../../support/cli.ts";
import { idVectors } from "../../support/id-vectors.ts";

const vectors = JSON.parse(
  readFileSync(new URL("../../vectors/ids-1.5.1.json", import.meta.url), "utf8"),
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
  it("derives the id of a task from its origin like dfget, and with --old like dfget 1.5.2", async () => {
    const seen = { filtered: 0, slashes: 0 };
    for (const { name, kind, input, canonical, ...ids } of idVectors) {
      if (kind !== "url") continue;
      const { url = "", filteredQueryParams, ...identity } = input;
      const filter =
        filteredQueryParams === undefined
          ? ["--no-filter"]
          : filteredQueryParams === "default"
            ? []
            : flagsOf({ filteredQueryParams });
      const args = [...filter, ...flagsOf(identity), "--", url];
      let expected = ids.id;
      // dfget parses the URL, so the path of an HTTP URL has at least a slash.
      const slashed = canonical?.replace(/^(https?:\/\/[^/?#]+)(?=[?#]|$)/, "$1/");
      if (filteredQueryParams !== undefined) {
        seen.filtered++;
        if (slashed !== undefined && slashed !== canonical) {
          seen.slashes++;
          assert.deepEqual(identity, {}, name);
          expected = taskIdOfContent(`${slashed}STANDARD`);
        }
      }
      for (const [form, taskId] of [
        [[], expected],
        [["--old"], ids.id_1_5_1 ?? undefined],
      ] as const) {
        const { code, out } = await run(failing("Internal"), ["id", "url", ...form, ...args]);
        const what = `${name} ${form}`;
        assert.equal(code, taskId === undefined ? 2 : 0, what);
        if (taskId !== undefined) assert.equal(out.text.trimEnd(), taskId, what);
      }
    }
    assert.ok(seen.filtered > 100 && seen.slashes > 5, JSON.stringify(seen));
  });

  it("parses the URL before it filters, like dfget", async () => {
    const withSlash = "https://example.com/";
    const filtered = { url: withSlash, filteredQueryParams: defaultFilteredQueryParams };
    assert.equal(await id(["url", "https://example.com"]), taskIdOfUrl(filtered));
    assert.equal(
      await id(["url", "https://example.com", "--no-filter"]),
      taskIdOfUrl({ url: "https://example.com" }),
    );
    const signed = "https://bucket.s3.amazonaws.com/key?X-Amz-Signature=1&versionId=2";
    assert.equal(
      await id(["url", signed]),
      taskIdOfUrl({ url: "https://bucket.s3.amazonaws.com/key?versionId=2" }),
    );
    assert.equal(
      await id(["url", signed, "--filtered-query-param", "versionId"]),
      taskIdOfUrl({ url: "https://bucket.s3.amazonaws.com/key?X-Amz-Signature=1" }),
    );
    assert.deepEqual(JSON.parse(await id(["url", withSlash, "--json"])), {
      taskId: taskIdOfUrl(filtered),
      kind: "standard",
    });
    const both = ["id", "url", signed, "--no-filter", "--filtered-query-param", "a"];
    const { code, err } = await run(failing("Internal"), both);
    assert.equal(code, 2);
    assert.match(err, /--filtered-query-param, --no-filter: expected one of them, got both/);
  });

  it("derives ids from an OCI blob, an object, and the content of a persistent cache task", async () => {
    for (const { name, kind, input, ...ids } of idVectors) {
      if (kind !== "blob" && kind !== "manifest") continue;
      const forms: [flags: string[], taskId: string | null | undefined][] = [[[], ids.id]];
      if (kind === "blob") forms.push([["--old"], ids.id_1_5_1]);
      for (const [form, expected] of forms) {
        const { code, out } = await run(failing("Internal"), [
          "id",
          kind,
          ...form,
          input.url ?? "",
        ]);
        assert.equal(code, expected ? 0 : 2, name);
        if (expected) assert.equal(out.text.trimEnd(), expected, name);
      }
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

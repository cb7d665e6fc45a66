import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import type { Sdk } from "../../../cli/sdk.ts";
import { VortexError } from "../../../src/errors.ts";
import type { TaskDirectory } from "../../../src/task/discovery.ts";
import { content, faceWith, peers, run, taskId, withPeer } from "../../support/cli.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const args = ["stat", "--peer", peers.grpc, "--task-id", taskId];
const digest = `sha256:${createHash("sha256").update(content).digest("hex")}`;

describe("vortex-peer stat", () => {
  it("prints the layout of a task and a peer with all pieces, as text and as JSON", () =>
    withPeer(async (sdk) => {
      const text = await run(sdk, args);
      assert.deepEqual([text.code, text.err], [0, ""]);
      assert.equal(
        text.out.text,
        `task   ${taskId}\nlength 10000 bytes, 10 pieces of 1000\ndigest unknown\nhas    all pieces\n`,
      );
      const json = await run(sdk, [...args, "--json"]);
      assert.deepEqual(JSON.parse(json.out.text), {
        peer: peers.grpc,
        taskId,
        kind: "standard",
        contentLength: 10_000,
        pieceLength: 1000,
        pieceCount: 10,
        pieces: [[0, 9]],
        complete: true,
        growing: false,
      });
    }));

  it("prints the pieces of a peer that is still fetching, and does not wait for the rest", async () => {
    const clock = new FakeClock();
    let onAnnounced = (): void => {};
    const announced = new Promise<void>((resolve) => {
      onAnnounced = resolve;
    });
    const sdk = faceOf({
      stat: async () => ({ contentLength: 10_000, pieceLength: 1000, pieceCount: 10 }),
      async *sync(_addr, _taskId, { signal, numbers }) {
        assert.deepEqual(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for (const number of [4, 0, 1, 9, 2]) yield { number, offset: number * 1000, length: 1000 };
        onAnnounced();
        await new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason), { once: true });
        });
      },
    });
    for (const [flags, expected] of [
      [
        [],
        `task   ${taskId}\nlength 10000 bytes, 10 pieces of 1000\ndigest unknown\nhas    5 of 10 pieces: 0-2, 4, 9; more may follow\n`,
      ],
      [["--json"], '"pieces":[[0,2],[4,4],[9,9]],"complete":false,"growing":true}\n'],
    ] as const) {
      const running = run(sdk, [...args, "--listen", "3s", ...flags], { clock });
      await announced;
      await clock.advanceUntil(running, 30_000);
      const { code, err, out } = await running;
      assert.deepEqual([code, err], [0, ""]);
      assert.ok(out.text.endsWith(expected), out.text);
      assert.equal(clock.pending, 0);
    }
  });

  it("prints a peer that ends with some pieces, and one that does not implement the call", async () => {
    const outline = { contentLength: 3000, pieceLength: 1000, pieceCount: 3, digest };
    const half = faceOf({
      stat: async () => outline,
      async *sync() {
        yield { number: 1, offset: 1000, length: 1000 };
      },
    });
    assert.match(
      (await run(half, args)).out.text,
      /\ndigest sha256:[0-9a-f]{64}\nhas {4}1 of 3 pieces: 1\n$/,
    );
    const unimplemented = faceOf({
      stat: async () => outline,
      // biome-ignore lint/correctness/useYield: it fails before
      async *sync() {
        throw new VortexError("RemoteUnimplemented", "no such call");
      },
    });
    assert.match(
      (await run(unimplemented, args)).out.text,
      /\nhas {4}unknown: the peer does not implement this call\n$/,
    );
    assert.deepEqual(JSON.parse((await run(unimplemented, [...args, "--json"])).out.text), {
      peer: peers.grpc,
      taskId,
      kind: "standard",
      ...outline,
    });
  });

  it("prints an empty task without asking for pieces", async () => {
    const empty = faceOf({
      stat: async () => ({ contentLength: 0, pieceLength: 1000, pieceCount: 0 }),
      sync: () => assert.fail("pieces of an empty task were requested"),
    });
    assert.match(
      (await run(empty, args)).out.text,
      /length 0 bytes, 0 pieces of 1000\n.*\nhas {4}all pieces\n$/,
    );
  });

  it("fails with the peer's error", () =>
    withPeer(async (sdk) => {
      const unknown = await run(sdk, ["stat", "--peer", peers.grpc, "--task-id", "c".repeat(64)]);
      assert.deepEqual([unknown.code, unknown.err], [3, "vortex-peer: NotFound: no such task\n"]);
      const broken = faceOf({
        stat: async () => ({ contentLength: 3000, pieceLength: 1000, pieceCount: 3 }),
        // biome-ignore lint/correctness/useYield: it fails before
        async *sync() {
          throw new VortexError("ConnectionLost", "gone");
        },
      });
      assert.deepEqual((await run(broken, args)).code, 4);
    }));

  it("uses TLS with --tls, --fingerprint or --insecure", () =>
    withPeer(async (sdk) => {
      const pin = "0123456789abcdef".repeat(4);
      await run(sdk, [...args, "--fingerprint", pin, "--connect-timeout", "1s"]);
      await run(sdk, [...args, "--tls"]);
      await run(sdk, [...args, "--insecure", "--stall-timeout", "2s"]);
      await run(sdk, args);
      assert.deepEqual(sdk.directories, [
        { tls: { fingerprints: [pin] }, connectTimeout: 1000, stallTimeout: 30_000 },
        { tls: {}, connectTimeout: 2000, stallTimeout: 30_000 },
        { tls: { verify: false }, connectTimeout: 2000, stallTimeout: 2000 },
        { connectTimeout: 2000, stallTimeout: 30_000 },
      ]);
    }));
});

function faceOf(directory: TaskDirectory): Sdk {
  return {
    ...faceWith(() => assert.fail("no piece is asked for")),
    createDirectory: () => ({ ...directory, [Symbol.asyncDispose]: async () => {} }),
  };
}

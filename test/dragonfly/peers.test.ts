/** Downloads from real dfdaemons as parents. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { DownloaderOptions } from "../../src/client/factory.ts";
import { VortexError } from "../../src/errors.ts";
import type { TaskParent } from "../../src/task/task.ts";
import { crc32 } from "../interop/stock-wire.ts";
import { runtimeName } from "../support/fixtures.ts";
import { seededBytes } from "../support/random.ts";
import { runner, runToEnd } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import { dfdaemonVersions, type Lab, missingProgram, startLab } from "./lab.ts";

const content = seededBytes(18, 30_000_000);
const pieceLength = 4 * 1024 * 1024;
const lengths = { contentLength: content.length, pieceLength };
const hostId = "127.0.0.1-test";
/** Timeout in ms. Daemons and tests share the machine with other test runs. */
const testOptions = { timeout: 120_000 };

for (const version of dfdaemonVersions) {
  const missing = missingProgram(version);
  const itWith = (name: string, run: (lab: Lab, taskId: string) => Promise<void>): void => {
    if (missing === undefined) it(name, testOptions, () => run(lab(), taskId));
    else it(`${name} [gap: ${missing}]`, { skip: missing }, () => {});
  };
  let started: Lab | undefined;
  let taskId = "";
  const lab = (): Lab => started ?? assert.fail("the lab has not started");

  describe(`dfdaemon ${version}`, () => {
    before(async () => {
      if (missing !== undefined) return;
      started = await startLab(version);
      taskId = await started.seed(content);
    }, testOptions);
    after(() => started?.close());

    for (const protocol of ["tcp", "auto", "hybrid"] as const) {
      itWith(
        `serves its task over ${protocol}, at named and at discovered addresses`,
        async ({ addresses }, id) => {
          await fetchesTask(
            { protocol },
            [{ addr: protocol === "tcp" ? addresses.tcp : addresses }],
            id,
            lengths,
          );
          await fetchesTask({ protocol }, [{ apiAddr: addresses.grpc }], id);
          assert.ok(lab().isAlive());
        },
      );
    }

    itWith(
      "keeps running after auto and hybrid requests, however they end",
      async ({ addresses, isAlive }, id) => {
        const { createDownloader } = await runtimeEntry();
        for (const protocol of ["auto", "hybrid"] as const) {
          for (const tls of [undefined, {}, { verify: false as const }, { serverName: "d7y" }]) {
            await using downloader = createDownloader({
              protocol,
              auto: { delay: 1 },
              ...(tls && { tls }),
            });
            const request = { addr: addresses, hostId, taskId: id, number: 0 };
            const outcomes = [1, 2, 5, 20, 1000].map((ms) =>
              downloader
                .downloadPiece({ ...request, signal: AbortSignal.timeout(ms) })
                .then((piece) => piece.cancel()),
            );
            await Promise.allSettled(outcomes);
          }
        }
        await fetchesTask({ protocol: "tcp" }, [{ addr: addresses.tcp }], id, lengths);
        assert.ok(isAlive());
      },
    );
  });
}

async function fetchesTask(
  options: DownloaderOptions,
  parents: readonly TaskParent[],
  taskId: string,
  known: Partial<typeof lengths> = {},
): Promise<void> {
  const { createDownloader } = await runtimeEntry();
  await using downloader = createDownloader(options);
  const stream = downloader.streamTask({ taskId, hostId, parents, ...known });
  assert.deepEqual(await stream.bytes(), content);
}

/** Deno's QUIC accepts the certificate of dfdaemon if it is started to, and needs no ALPN. */
describe("a QUIC handshake of Deno, which accepts the certificate", () => {
  const version = "1.4.8";
  const name = `dfdaemon ${version} serves a piece and keeps running`;
  const reason =
    missingProgram(version) ??
    (runtimeName === "deno" ? undefined : "this tests Deno's QUIC, which the tests on Deno cover");
  if (reason !== undefined) {
    it(`${name} [gap: ${reason}]`, { skip: reason }, () => {});
    return;
  }
  it(name, testOptions, async () => {
    const lab = await startLab(version);
    try {
      const id = await lab.seed(content);
      const { out } = await runToEnd([
        ...runner,
        "--unsafely-ignore-certificate-errors=d7y",
        "test/interop/unverified-client.ts",
        ...[lab.addresses.quic ?? "", id, "0"],
      ]);
      assert.equal(out.trim(), String(crc32(content.subarray(0, pieceLength))));
      await fetchesTask({ protocol: "tcp" }, [{ addr: lab.addresses.tcp }], id, lengths);
      assert.ok(lab.isAlive());
    } finally {
      await lab.close();
    }
  });
});

/** Old versions exit when a QUIC handshake fails. This shows that the tests above can fail. */
describe("a failed QUIC handshake, by a client that offers ALPN", () => {
  for (const [version, survives] of [
    ["1.4.8", false],
    ["1.5.10", true],
  ] as const) {
    const name = `dfdaemon ${version} ${survives ? "keeps running" : "exits"}`;
    const reason = missingProgram(version);
    if (reason !== undefined) {
      it(`${name} [gap: ${reason}]`, { skip: reason }, () => {});
      continue;
    }
    it(name, testOptions, async () => {
      const lab = await startLab(version);
      try {
        const { createDownloader } = await runtimeEntry();
        await using downloader = createDownloader({ protocol: "quic", tls: { verify: false } });
        const request = {
          addr: lab.addresses.quic ?? "",
          hostId,
          taskId: "a1".repeat(32),
          number: 0,
        };
        await assert.rejects(downloader.downloadPiece(request), VortexError);
        if (survives) assert.ok(lab.isAlive());
        else await lab.ended;
      } finally {
        await lab.close();
      }
    });
  }
});

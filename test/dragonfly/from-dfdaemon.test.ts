/** Downloads from real dfdaemons as parents. */
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { DownloaderOptions } from "../../src/client/factory.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { digestOf } from "../../src/digest/digest.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import { VortexError } from "../../src/errors.ts";
import { portableRuntime } from "../../src/runtime.ts";
import type { TaskEvent, TaskParent } from "../../src/task/task.ts";
import { assertRejects } from "../support/failures.ts";
import { runtimeName } from "../support/fixtures.ts";
import { runners, runToEnd } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import { sha256OfFile } from "./content.ts";
import type { Daemon, Lab, LabTask } from "./lab.ts";
import { record } from "./measurements.ts";
import { DEFAULT_VERSION, type DfdaemonVersion } from "./programs.ts";
import { describeVersions, fullRunOnly, GIBIBYTE, LENGTH, SLOW_RATE } from "./suite.ts";

const hostId = "127.0.0.1-test";
/** Reason why this runtime cannot fetch from dfdaemon over QUIC; undefined on Deno. */
const mustOfferAlpn =
  runtimeName === "deno"
    ? undefined
    : "dfdaemon accepts no ALPN over QUIC, and the QUIC client of this runtime must offer one";
const unknownTask = "a1".repeat(32);

interface Context {
  readonly lab: Lab;
  readonly daemon: Daemon;
  /** Task that the daemon has. */
  readonly task: LabTask;
}

describeVersions<Context>(
  (version) => `dfdaemon ${version} as a parent`,
  async (lab) => {
    const daemon = await lab.startDaemon({ name: "seed", seed: true });
    const task = await lab.publish(LENGTH);
    await daemon.fetch(task, lab.file());
    return { lab, daemon, task };
  },
  (cases, version) => {
    const longOfOld = version === DEFAULT_VERSION ? undefined : fullRunOnly;
    for (const protocol of ["tcp", "auto", "hybrid"] as const) {
      cases.it(
        `serves a task over ${protocol}, at a named address`,
        async (context) => {
          const { addresses } = context.daemon;
          const addr = protocol === "tcp" ? addresses.tcp : addresses;
          await fetchesTask(context, `${protocol}, named`, { protocol }, [{ addr }]);
        },
        longOfOld,
      );
      cases.it(
        `serves a task over ${protocol}, discovered by SyncPieces`,
        async (context) => {
          const apiAddr = context.daemon.addresses.grpc;
          await fetchesTask(context, `${protocol}, discovered`, { protocol }, [{ apiAddr }]);
          assert.ok(context.daemon.isAlive());
        },
        protocol === "tcp" ? undefined : longOfOld,
      );
    }

    if (version === "1.2.1")
      cases.it("serves pieces over gRPC, by DownloadPiece", async (context) => {
        const addr = context.daemon.addresses.grpc;
        await fetchesTask(context, "grpc, named", { protocol: "grpc" }, [{ addr }]);
      });
    else
      cases.it("refuses pieces over gRPC, since it has no DownloadPiece", async (context) => {
        const { createDownloader } = await runtimeEntry();
        await using downloader = createDownloader({ protocol: "grpc" });
        const addr = context.daemon.addresses.grpc;
        const request = { addr, hostId, taskId: context.task.taskId, number: 0 };
        await assertRejects(downloader.downloadPiece(request), "RemoteUnimplemented");
      });

    cases.it(
      "serves a task over QUIC, where the client accepts its certificate",
      async ({ lab, daemon, task }) => {
        const { taskId, content, pieces } = task;
        const to = lab.file();
        const { code, out, err } = await runToEnd([
          ...runnerOf("deno"),
          "--unsafely-ignore-certificate-errors=d7y",
          "test/dragonfly/quic-client.ts",
          ...[daemon.addresses.quic, taskId, String(content.length), to],
        ]);
        assert.equal(code, 0, err);
        assert.equal(await sha256OfFile(to), content.sha256);
        assert.ok(daemon.isAlive());
        const duration = Number(out);
        record({
          version,
          ...fromDfdaemon,
          protocol: "quic, named",
          pieces,
          duration,
          length: content.length,
        });
      },
      mustOfferAlpn,
    );

    cases.it(
      "sends a task that it has over DownloadTask, and reports errors of the origin",
      async ({ daemon, task }) => {
        const settings = downloaderSettings({}, portableRuntime);
        await using downloader = new GrpcDownloader(async () => grpcBinding(), settings);
        const api = daemon.addresses.grpc;
        const download = await downloader.downloadTask(api, { url: task.url });
        assert.equal(download.taskId, task.taskId);
        const found = new Uint8Array(task.content.length);
        let bytes = 0;
        for await (const piece of download) {
          found.set(piece.content, piece.offset);
          bytes += piece.length;
        }
        assert.equal(bytes, task.content.length);
        const sha256 = digestOf("sha256", found, portableHashers);
        assert.equal(sha256, `sha256:${task.content.sha256}`);
        const origin = await startEmptyOrigin();
        try {
          const failed = downloader.downloadTask(api, { url: origin.url });
          const error = await assertRejects(failed, "OriginFailed");
          assert.equal(error.origin?.status, 404);
          assert.equal(error.origin?.headers["x-why"], "no such object");
        } finally {
          origin.close();
        }
      },
    );

    cases.it("has errors for unknown tasks and pieces", async ({ daemon, task }) => {
      const { createDownloader } = await runtimeEntry();
      await using downloader = createDownloader({ protocol: "tcp" });
      const request = { addr: daemon.addresses.tcp, hostId, taskId: unknownTask, number: 0 };
      await assertRejects(downloader.downloadPiece(request), "NotFound");
      const beyond = { ...request, taskId: task.taskId, number: task.pieces };
      await assertRejects(downloader.downloadPiece(beyond), "NotFound");
      const unknown = downloader.streamTask({
        ...{ taskId: unknownTask, hostId, patience: 0 },
        parents: [{ apiAddr: daemon.addresses.grpc }],
      });
      await assert.rejects(unknown.bytes(), VortexError);
      // The connection is still good.
      const first = await downloader.downloadPiece({ ...request, taskId: task.taskId });
      assert.equal((await first.bytes()).length, task.pieceLength);
    });

    cases.it("keeps running after auto and hybrid requests, however they end", async (context) => {
      const { createDownloader } = await runtimeEntry();
      const { daemon, task } = context;
      for (const protocol of ["auto", "hybrid"] as const) {
        for (const tls of [undefined, {}, { verify: false as const }, { serverName: "d7y" }]) {
          await using downloader = createDownloader({
            protocol,
            auto: { delay: 1 },
            ...(tls && { tls }),
          });
          const request = { addr: daemon.addresses, hostId, taskId: task.taskId, number: 0 };
          const outcomes = [1, 2, 5, 20, 1000].map((ms) =>
            downloader
              .downloadPiece({ ...request, signal: AbortSignal.timeout(ms) })
              .then((piece) => piece.cancel()),
          );
          await Promise.allSettled(outcomes);
        }
      }
      const { tcp } = daemon.addresses;
      await fetchesTask(context, undefined, { protocol: "tcp" }, [{ addr: tcp }]);
      assert.ok(daemon.isAlive());
    });

    cases.it(
      "is replaced by another parent when it is killed",
      async ({ lab, task }) => {
        const second = await lab.startDaemon({ name: `second-${crypto.randomUUID()}` });
        const third = await lab.startDaemon({ name: `third-${crypto.randomUUID()}` });
        for (const daemon of [second, third]) await daemon.fetch(task, lab.file());
        const killed: Promise<void>[] = [];
        const addr = second.addresses.tcp;
        const onEvent = (event: TaskEvent): void => {
          if (event.type === "piece" && event.parent === addr && killed.length === 0)
            killed.push(second.kill());
        };
        const parents = [{ addr }, { addr: third.addresses.tcp }];
        // The rate keeps most pieces outstanding when the first one has arrived.
        const request = { ...lengthsOf(task), rateLimit: SLOW_RATE, onEvent };
        await fetchesTask({ lab, task }, undefined, { protocol: "tcp" }, parents, request);
        assert.equal(killed.length, 1);
        await killed[0];
        await third.kill();
      },
      longOfOld,
    );

    cases.it(
      "is reported when it is killed and there is no other",
      async ({ lab, task }) => {
        const only = await lab.startDaemon({ name: `only-${crypto.randomUUID()}` });
        await only.fetch(task, lab.file());
        let killed: Promise<void> | undefined;
        const { createDownloader } = await runtimeEntry();
        await using downloader = createDownloader({ protocol: "tcp" });
        const download = downloader.streamTask({
          ...{ taskId: task.taskId, hostId, patience: 0, rateLimit: SLOW_RATE },
          parents: [{ addr: only.addresses.tcp }],
          ...lengthsOf(task),
          onEvent: ({ type }) => {
            if (type === "piece") killed ??= only.kill();
          },
        });
        await assert.rejects(
          download.bytes(),
          (error) => error instanceof VortexError && error.message.includes(only.addresses.tcp),
        );
        await killed;
      },
      longOfOld,
    );

    cases.it(
      "serves 1 GiB over tcp, discovered by SyncPieces",
      async ({ lab, daemon }) => {
        const task = await lab.publish(GIBIBYTE);
        await daemon.fetch(task, lab.file());
        const parents = [{ apiAddr: daemon.addresses.grpc }];
        await fetchesTask({ lab, task }, "tcp, discovered", { protocol: "tcp" }, parents);
      },
      fullRunOnly,
    );
  },
);

/** Old versions exit when a QUIC handshake fails. This shows that the tests above can fail. */
describeVersions<Daemon>(
  (version) => `dfdaemon ${version}, after a failed QUIC handshake by a client that offers ALPN`,
  (lab) => lab.startDaemon({ name: "seed", seed: true }),
  (cases, version) => {
    const survives = !exitsOfHandshakes(version);
    cases.it(survives ? "keeps running" : "exits", async (daemon) => {
      const { createDownloader } = await runtimeEntry();
      await using downloader = createDownloader({ protocol: "quic", tls: { verify: false } });
      const request = { addr: daemon.addresses.quic, hostId, taskId: unknownTask, number: 0 };
      await assert.rejects(downloader.downloadPiece(request), VortexError);
      if (survives) assert.ok(daemon.isAlive());
      else await daemon.ended;
    });
  },
);

const fromDfdaemon = { direction: "from dfdaemon" } as const;

function lengthsOf({ content, pieceLength }: LabTask): {
  contentLength: number;
  pieceLength: number;
} {
  return { contentLength: content.length, pieceLength };
}

/** Returns true for the versions that exit when a QUIC handshake fails. */
function exitsOfHandshakes(version: DfdaemonVersion): boolean {
  return version === "1.2.1" || version === "1.4.8";
}

/** Fetches a task to a file, checks its digest, and records the measurement under `protocol`. */
async function fetchesTask(
  { lab, task }: Pick<Context, "lab" | "task">,
  protocol: string | undefined,
  options: DownloaderOptions,
  parents: readonly TaskParent[],
  request: object = parents.some(({ addr }) => addr !== undefined) ? lengthsOf(task) : {},
): Promise<void> {
  const { createDownloader } = await runtimeEntry();
  await using downloader = createDownloader(options);
  const to = lab.file();
  const started = performance.now();
  await downloader.downloadTask({ taskId: task.taskId, hostId, parents, to, ...request });
  const duration = performance.now() - started;
  assert.equal(await sha256OfFile(to), task.content.sha256);
  await rm(to);
  const { pieces, content } = task;
  if (protocol !== undefined)
    record({
      version: lab.version,
      ...fromDfdaemon,
      protocol,
      pieces,
      duration,
      length: content.length,
    });
}

function runnerOf(name: keyof typeof runners): readonly string[] {
  const runner = runners[name];
  return typeof runner === "string" ? assert.fail(runner) : runner;
}

/** Starts an HTTP server that has nothing. */
async function startEmptyOrigin(): Promise<{ readonly url: string; close(): void }> {
  const server = createServer((_request, response) => {
    response.writeHead(404, { "x-why": "no such object" }).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/gone`, close: () => void server.close() };
}

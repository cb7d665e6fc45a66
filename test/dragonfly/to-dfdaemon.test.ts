/** Downloads by real dfdaemons, which their scheduler sends to a server of this library. */
import assert from "node:assert/strict";
import { FilePieceStore } from "../../adapters/files/store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { runner, startProgram } from "../support/run.ts";
import type { Daemon, Lab, LabTask } from "./lab.ts";
import { record } from "./measurements.ts";
import { noStockQuic, Parent } from "./parent.ts";
import { DEFAULT_VERSION } from "./programs.ts";
import { describeVersions, fullRunOnly, GIBIBYTE, LENGTH, SLOW_RATE } from "./suite.ts";
import type { DaemonProtocol } from "./templates.ts";

interface Context {
  readonly lab: Lab;
  readonly parent: Parent;
  /** Children, started when a case needs them. */
  readonly children: Map<DaemonProtocol, Promise<Daemon>>;
}

describeVersions<Context>(
  (version) => `dfdaemon ${version} as a child`,
  async (lab) => {
    const parent = await Parent.start({ ip: lab.address(), scheduler: lab.scheduler });
    lab.onClose(() => parent.close());
    return { lab, parent, children: new Map() };
  },
  (cases, version) => {
    const longOfOld = version === DEFAULT_VERSION ? undefined : fullRunOnly;
    const protocols = [
      ["tcp", undefined],
      ["quic", noStockQuic ?? longOfOld],
      // The last version that fetches pieces over gRPC.
      ...(version === "1.2.1" ? [["grpc", undefined] as const] : []),
    ] as const;
    for (const [protocol, gap] of protocols) {
      cases.it(
        `fetches a task over ${protocol}`,
        (context) => fetches(context, protocol, LENGTH),
        gap,
      );
    }
    cases.it("fetches 1 GiB over tcp", (context) => fetches(context, "tcp", GIBIBYTE), fullRunOnly);

    cases.it(
      "fetches from the origin what the parent announced but does not have",
      async (context) => {
        const { lab, parent } = context;
        const task = await lab.publish(LENGTH);
        await parent.announce(task);
        const daemon = await childOf(context, "tcp");
        await daemon.fetch(task, lab.file());
        assert.equal(parent.requestedPieces(task, "tcp"), 0);
      },
      longOfOld,
    );

    cases.it(
      "refuses pieces with a wrong digest, and fetches them from the origin",
      async (context) => {
        const { lab } = context;
        const task = await lab.publish(LENGTH);
        const { taskId, pieceLength, content } = task;
        const files = new FilePieceStore();
        await files.addFile(content.path, { taskId, pieceLength });
        const parent = await Parent.start({
          ip: lab.address(),
          scheduler: lab.scheduler,
          store: withWrongDigests(files),
        });
        try {
          await parent.announce(task);
          const daemon = await childOf(context, "tcp");
          await daemon.fetch(task, lab.file());
          assert.ok(parent.requestedPieces(task, "tcp") > 0);
          assert.ok(lab.origin.bytesOf(task.url) >= content.length);
        } finally {
          await parent.close();
          await files.close();
        }
      },
      longOfOld,
    );

    cases.it(
      "completes the task from the origin when the parent is killed",
      async (context) => {
        const { lab } = context;
        const task = await lab.publish(LENGTH);
        const before = lab.origin.bytesOf(task.url);
        // The rate keeps most pieces outstanding when the parent has sent the first one.
        const program = startProgram([
          ...runner,
          "test/dragonfly/parent-process.ts",
          ...[lab.address(), lab.scheduler, JSON.stringify(task), String(SLOW_RATE)],
        ]);
        try {
          assert.equal(await program.line(), "ready");
          const daemon = await childOf(context, "tcp");
          const fetched = daemon.fetch(task, lab.file());
          assert.match(await program.line(), /^piece \d+$/);
          program.kill();
          await fetched;
          assert.ok(lab.origin.bytesOf(task.url) - before > task.pieceLength);
        } finally {
          program.kill();
          await program.ended;
        }
      },
      longOfOld,
    );

    async function fetches(
      context: Context,
      protocol: DaemonProtocol,
      length: number,
    ): Promise<void> {
      const { lab, parent } = context;
      const task: LabTask = await lab.publish(length);
      await parent.add(task);
      const daemon = await childOf(context, protocol);
      const duration = await daemon.fetch(task, lab.file());
      assert.equal(parent.requestedPieces(task, protocol), task.pieces);
      const { pieces } = task;
      record({ version, direction: "to dfdaemon", protocol, pieces, duration, length });
    }
  },
);

/** Starts the child that fetches over a protocol, or returns the running one. */
function childOf({ lab, children }: Context, protocol: DaemonProtocol): Promise<Daemon> {
  const running =
    children.get(protocol) ?? lab.startDaemon({ name: `child-${protocol}`, protocol });
  children.set(protocol, running);
  return running;
}

/** Store with the pieces of `store`, but wrong digests. */
function withWrongDigests(store: PieceStore): PieceStore {
  return {
    async getPiece(request) {
      const piece = await store.getPiece(request);
      return (
        piece && {
          metadata: { ...piece.metadata, digest: "crc32:1" },
          read: (range) => piece.read(range),
        }
      );
    },
    getTask: (taskId) => store.getTask(taskId),
  };
}

/** Calls of dfdaemon as a child, and of a scheduler, to a server of this library over gRPC. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { type GrpcServer, grpcServer } from "../../adapters/grpc/server.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { type GrowingTask, MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { FakeClock, fakeRuntime, settle } from "../support/fake-clock.ts";
import { seededBytes } from "../support/random.ts";
import { announcedPiece, StockChild } from "./stock-child.ts";

const testOptions = { timeout: 60_000 };
const taskId = "ab".repeat(32);
const content = seededBytes(8, 2500);

/** Runs `use` with a parent whose task grows, and its child. Both read one fake clock. */
async function withChild(
  use: (pair: {
    readonly child: StockChild;
    readonly clock: FakeClock;
    readonly server: GrpcServer;
    readonly task: GrowingTask;
  }) => Promise<void>,
): Promise<void> {
  const clock = new FakeClock();
  const store = new MemoryPieceStore();
  const task = store.startTask(taskId, content.length, { pieceLength: 1000 });
  // The child's PONGs take real time, for which the fake clock does not wait.
  const limits = { requestTimeout: 3_600_000, stallTimeout: 3_600_000 };
  const settings = serverSettings(limits, fakeRuntime(clock));
  const server = await grpcServer({ host: "127.0.0.1", port: 0 }, store, settings);
  const child = new StockChild(formatAddress(server.address), clock);
  try {
    await use({ child, clock, server, task });
  } finally {
    child.close();
    await server.close({ grace: 0 });
  }
}

it("a child reads SyncPieces beyond its deadline, for as long as the task grows", testOptions, () =>
  withChild(async ({ child, clock, task }) => {
    const call = child.syncPieces(taskId, [0, 1, 2]);
    await call.started;
    for (const number of [0, 1, 2]) {
      // No piece comes within the deadline: neither side may end the call.
      await clock.advance(11_000);
      task.putPiece(number, content.subarray(number * 1000, (number + 1) * 1000));
      await call.received(number + 1);
    }
    assert.deepEqual(call.messages.map(announcedPiece), [
      { number: 0, length: 1000 },
      { number: 1, length: 1000 },
      { number: 2, length: 500 },
    ]);
    assert.equal(await call.ended, "0");
  }),
);

it("a child reads the load of its parent each second, beyond its deadline", testOptions, () =>
  withChild(async ({ child, clock }) => {
    const call = child.syncHost();
    for (let count = 1; count <= 15; count++) {
      await call.received(count);
      assert.equal(call.messages.length, count);
      // The first field is the id of the host, which is text.
      assert.equal(call.messages.at(-1)?.[0], (1 << 3) | 2);
      // The server pauses after the message has left.
      while (clock.pending < 2) await settle();
      await clock.advance(1000);
    }
    call.cancel();
    await call.ended;
  }),
);

it("a scheduler uses the server as a seed peer, until it closes", testOptions, () =>
  withChild(async ({ child, server }) => {
    assert.equal(await child.isServing(), true);
    await server.close();
    assert.equal(await child.isServing(), false);
  }),
);

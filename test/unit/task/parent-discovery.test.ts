import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { VortexError } from "../../../src/errors.ts";
import type { PieceLocation, TaskDirectory, TaskOutline } from "../../../src/task/discovery.ts";
import { TaskLayout } from "../../../src/task/layout.ts";
import { type Parent, ParentDiscovery } from "../../../src/task/parent-discovery.ts";
import { RouteState } from "../../../src/task/route.ts";
import type { TaskSource } from "../../../src/task/source.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";

const taskId = "ab".repeat(32);
const outline: TaskOutline = { contentLength: 3000, pieceLength: 1000, pieceCount: 3 };
const layout = TaskLayout.announced({ taskId, kind: "standard" }, outline);
const parent: Parent = { name: "a:1", addr: "a:1", apiAddr: "a:4000" };
const other: Parent = { name: "b:1", addr: "b:1", apiAddr: "b:4000" };

function location(number: number): PieceLocation {
  return { number, offset: number * 1000, length: 1000, tcpAddr: "a:1" };
}

/** Returns a promise that the test settles. */
function deferred<T>(): {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (error: Error) => void;
} {
  let settle: { resolve: (value: T) => void; reject: (error: Error) => void } | undefined;
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  assert.ok(settle);
  return { promise, ...settle };
}

/** Returns a discovery over a directory that ignores its signal, with counters of its callbacks. */
function discovering(directory: TaskDirectory) {
  const ending = new AbortController();
  const clock = new FakeClock();
  const route = new RouteState({ parent: parent.name }, true);
  const seen = { changes: 0, useless: 0 };
  const source = {
    directory,
    usesGrpc: true,
    addressOf: () => undefined,
  } as unknown as TaskSource;
  const discovery = new ParentDiscovery({
    request: { taskId, hostId: "host", kind: "standard", range: undefined },
    source,
    digest: undefined,
    maxPieceLength: 1000,
    parents: [parent, other],
    clock,
    random: () => 0.5,
    signal: ending.signal,
    operation: undefined,
    onChange: () => seen.changes++,
    onUseless: () => {
      seen.useless++;
      route.exclude("banned", clock.now());
    },
    onAddress: () => {},
    onRestored: () => {},
    patience: 60_000,
  });
  return { discovery, ending, clock, route, seen };
}

describe("after the download has ended, announcements", () => {
  it("are not asked for, if the answer about the task comes late", async () => {
    const late = deferred<TaskOutline>();
    let syncs = 0;
    const { discovery, ending, route, seen } = discovering({
      stat: (addr) => (addr === other.apiAddr ? Promise.resolve(outline) : late.promise),
      async *sync() {
        syncs++;
        yield location(0);
      },
    });
    await discovery.discover();
    const following = discovery.follow(layout, parent, [route]);
    ending.abort();
    late.resolve(outline);
    await following;
    assert.deepEqual([syncs, seen], [0, { changes: 0, useless: 0 }]);
  });

  it("are ignored, and their call ends", async () => {
    const next = deferred<void>();
    let returned = false;
    const { discovery, ending, route, seen } = discovering({
      stat: async () => outline,
      async *sync() {
        try {
          yield location(0);
          await next.promise;
          yield location(1);
          yield location(2);
        } finally {
          returned = true;
        }
      },
    });
    const following = discovery.follow(layout, parent, [route]);
    await settle();
    assert.deepEqual(
      [route.availability(0) !== undefined, route.availability(1) !== undefined, seen.changes],
      [true, false, 1],
    );
    ending.abort();
    next.resolve();
    await following;
    assert.deepEqual(
      [route.availability(1) !== undefined, route.availability(2) !== undefined, returned],
      [false, false, true],
    );
    assert.deepEqual(seen, { changes: 1, useless: 0 });
  });

  it("are not taken as complete, if the call ends by itself", async () => {
    const end = deferred<void>();
    const { discovery, ending, route, seen } = discovering({
      stat: async () => outline,
      async *sync() {
        yield location(0);
        await end.promise;
      },
    });
    const following = discovery.follow(layout, parent, [route]);
    await settle();
    ending.abort();
    end.resolve();
    await following;
    assert.deepEqual([route.mayAnnounceMore, seen.changes], [true, 1]);
  });

  it("are not asked for again after a call that failed", async () => {
    let syncs = 0;
    const { discovery, ending, clock, route, seen } = discovering({
      stat: async () => outline,
      // biome-ignore lint/correctness/useYield: it fails at once.
      async *sync() {
        syncs++;
        throw new VortexError("ConnectionLost", "gone");
      },
    });
    const following = discovery.follow(layout, parent, [route]);
    await settle();
    assert.equal(clock.pending, 1);
    ending.abort();
    await following;
    assert.deepEqual([syncs, clock.pending, seen], [1, 0, { changes: 1, useless: 0 }]);
  });
});

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Piece } from "../../../src/piece.ts";
import { TaskFetcher } from "../../../src/task/fetcher.ts";
import { memorySink } from "../../../src/task/memory-sink.ts";
import type { SourceOptions, SourceRequest } from "../../../src/task/source.ts";
import type { TaskEvent, TaskReport, TaskStreamOptions } from "../../../src/task/task.ts";
import type { PeerAddress } from "../../../src/transport/peer-address.ts";
import type { Protocol } from "../../../src/transport/protocol.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";
import {
  type Behaviour,
  corrupt,
  FakeParents,
  failing,
  honest,
  taskId,
  taskSettings,
} from "../../support/task-parents.ts";

const content = seededBytes(5, 20 * 4096 + 7);
const both: readonly Protocol[] = ["quic", "tcp"];

describe("hybrid with a task over several protocols at once", () => {
  it("fetches over all of them, and reports the share of each", async () => {
    const { parents, fetch } = hybrid({ "a:1 quic": honest(), "a:1 tcp": honest() });
    const { report, bytes } = await fetch(["a:1"]);
    assert.deepEqual(bytes, content);
    const [parent] = report.parents;
    assert.equal(report.parents.length, 1);
    assert.deepEqual(
      parent?.routes?.map(({ protocol }) => protocol),
      both,
    );
    assert.equal(parent?.pieces, 21);
    assert.ok(parent?.routes?.every(({ pieces }) => pieces > 0));
    assert.equal(parents.numbers().length, 21);
  });

  it("gives the pieces of a failing protocol to the others", async () => {
    const { events, fetch } = hybrid({
      "a:1 quic": failing("ProtocolNotSupported"),
      "a:1 tcp": honest(),
    });
    const { report, bytes } = await fetch(["a:1"]);
    assert.deepEqual(bytes, content);
    const left = events.filter(({ type }) => type.endsWith("excluded"));
    assert.deepEqual(
      left.map((event) =>
        event.type === "protocol-excluded" ? [event.parent, event.protocol] : event.type,
      ),
      [["a:1", "quic"]],
    );
    assert.equal(report.parents[0]?.state, "active");
    assert.equal(report.parents[0]?.routes?.[0]?.state, "excluded");
  });

  it("bans a parent on all protocols after wrong bytes over one", async () => {
    const { events, parents, fetch } = hybrid({
      "a:1 quic": corrupt,
      "a:1 tcp": slow,
      "b:1 quic": honest(),
      "b:1 tcp": honest(),
    });
    const { report, bytes } = await fetch(["a:1", "b:1"]);
    assert.deepEqual(bytes, content);
    assert.deepEqual(
      report.parents.map(({ parent, state, pieces }) => [parent, state, pieces]),
      [
        ["a:1", "excluded", 0],
        ["b:1", "active", 21],
      ],
    );
    assert.deepEqual(
      events.flatMap((event) => (event.type === "parent-excluded" ? [event.parent] : [])),
      ["a:1"],
    );
    assert.equal(parents.inFlight.get("a:1 tcp"), 0);
  });

  it("limits the concurrent requests to a parent over all protocols together", async () => {
    const { parents, fetch } = hybrid(
      { "a:1 quic": honest(), "a:1 tcp": honest() },
      { parentConcurrency: 3 },
    );
    const { bytes } = await fetch(["a:1"]);
    assert.deepEqual(bytes, content);
    assert.equal(parents.maxInFlight, 3);
  });
});

/** Rejects when the request is aborted, and sends nothing before. */
const slow: Behaviour = ({ signal }) => ({
  [Symbol.asyncIterator]: () => ({
    next: () =>
      new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  }),
});

/** In-memory parents by `name protocol`. */
class HybridParents extends FakeParents {
  protocolsOf(_addr: PeerAddress | undefined): readonly Protocol[] {
    return both;
  }

  override fetchPiece(
    { addr, protocol, ...request }: SourceRequest,
    options: SourceOptions,
  ): Promise<Piece> {
    return super.fetchPiece({ ...request, addr: `${addr} ${protocol}` }, options);
  }
}

function hybrid(
  behaviours: Readonly<Record<string, Behaviour>>,
  settings: Parameters<typeof taskSettings>[0] = {},
): {
  parents: HybridParents;
  events: TaskEvent[];
  fetch(
    from: readonly string[],
    options?: Partial<TaskStreamOptions>,
  ): Promise<{ bytes: Uint8Array; report: TaskReport }>;
} {
  const parents = new HybridParents(content, 4096, behaviours);
  const events: TaskEvent[] = [];
  const runtime = fakeRuntime();
  const fetcher = new TaskFetcher(parents, taskSettings(settings, runtime));
  return {
    parents,
    events,
    async fetch(from, options = {}) {
      const to = memorySink();
      const download = fetcher.downloadTask({
        taskId,
        hostId: "me",
        parents: from,
        contentLength: content.length,
        pieceLength: 4096,
        ...options,
        to,
        onEvent: (event) => events.push(event),
      });
      await runtime.clock.advanceUntil(download, 600_000, 100);
      return { report: await download, bytes: await to.bytes() };
    },
  };
}

/**
 * Parents of one task with different contents of the same length, and the verification of the
 * result.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { VortexError } from "../../../src/errors.ts";
import type { PieceLocation, TaskDirectory, TaskOutline } from "../../../src/task/discovery.ts";
import type { TaskFetcher } from "../../../src/task/fetcher.ts";
import { memorySink } from "../../../src/task/memory-sink.ts";
import type { SinkPiece, SinkSession, TaskSink } from "../../../src/task/sink.ts";
import type {
  SourceOptions,
  SourceRequest,
  TaskSettings,
  TaskSource,
} from "../../../src/task/source.ts";
import type { TaskEvent, TaskReport, TaskStreamOptions } from "../../../src/task/task.ts";
import { assertRejects, rejectionOf } from "../../support/failures.ts";
import { type FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import { joined, seededBytes } from "../../support/random.ts";
import {
  type Behaviour,
  ClaimedContent,
  corrupt,
  FakeParents,
  failing,
  fetcherOf,
  holding,
  honest,
  type ParentRequest,
  silent,
  taskId,
  taskSettings,
  until,
} from "../../support/task-parents.ts";

const PIECE = 1000;
const COUNT = 20;
/** The right content, and different content of the same length. */
const right = seededBytes(1, COUNT * PIECE);
const other = seededBytes(2, COUNT * PIECE);
const digest = digestOf("sha256", right, portableHashers);

const differing = holding(other, PIECE);
/** Parent with the other content in the pieces for which `differs` returns true. */
const differingIn = (differs: (number: number) => boolean): Behaviour =>
  holding(other, PIECE, ({ number }) => differs(number));

/** Sink that records the content of each committed piece. */
class WatchingSink implements TaskSink {
  readonly bytes = new Uint8Array(right.length);
  /** Content of each committed piece, in order: `right`, `other`, or `wrong` for neither. */
  readonly committed: string[] = [];
  found: readonly SinkPiece[] = [];
  ended: "finish" | "keep" | "discard" | undefined;
  /** Numbers of the kept pieces, for each restart. */
  readonly restarts: number[][] = [];

  async open(layout: Parameters<TaskSink["open"]>[0]): Promise<SinkSession> {
    return {
      resumed: this.found,
      write: async (_number, position, chunk) => this.bytes.set(chunk, position),
      commit: async ({ number }) => {
        const { position = 0, length = 0 } = layout.part(number) ?? {};
        this.committed.push(
          contentOf(this.bytes.subarray(position, position + length), layout.start + position),
        );
      },
      read: async (_number, position, length) => this.bytes.subarray(position, position + length),
      restart: async (kept) => {
        this.restarts.push(kept.map(({ number }) => number));
        this.committed.length = 0;
      },
      advance: async () => {},
      finish: async () => {
        this.ended = "finish";
      },
      abort: async (_error, { discard = false } = {}) => {
        this.ended = discard ? "discard" : "keep";
      },
    };
  }

  /** Fails if pieces of several contents were committed. */
  assertOneContent(): void {
    assert.ok(new Set(this.committed).size <= 1, `committed: ${this.committed.join(", ")}`);
  }
}

function contentOf(bytes: Uint8Array, from: number): string {
  const is = (content: Uint8Array): boolean =>
    Buffer.compare(bytes, content.subarray(from, from + bytes.length)) === 0;
  return is(right) ? "right" : is(other) ? "other" : "wrong";
}

/** Returns the journal entry for a piece of a content. */
function sunk(number: number, content: Uint8Array): SinkPiece {
  const crc32 = digestOf(
    "crc32",
    content.subarray(number * PIECE, (number + 1) * PIECE),
    portableHashers,
  );
  return { number, digest: crc32, crc32: Number(crc32.slice("crc32:".length)) };
}

interface Bench {
  readonly clock: FakeClock;
  readonly parents: FakeParents;
  readonly fetcher: TaskFetcher;
  readonly request: TaskStreamOptions;
  readonly sink: WatchingSink;
  readonly events: TaskEvent[];
  fetch(changes?: Partial<TaskStreamOptions>): Promise<TaskReport>;
}

function bench(
  behaviours: Readonly<Record<string, Behaviour>>,
  options: {
    readonly settings?: Partial<TaskSettings>;
    readonly directory?: TaskDirectory;
    readonly usesGrpc?: boolean;
  } = {},
): Bench {
  const runtime = fakeRuntime();
  const parents = new FakeParents(right, PIECE, behaviours, options);
  const { fetcher, request } = fetcherOf(
    parents,
    Object.keys(behaviours),
    taskSettings(options.settings, runtime),
  );
  const sink = new WatchingSink();
  const events: TaskEvent[] = [];
  return {
    clock: runtime.clock,
    parents,
    fetcher,
    request,
    sink,
    events,
    async fetch(changes = {}) {
      const done = fetcher.downloadTask({
        ...request,
        ...changes,
        to: sink,
        onEvent: (event) => events.push(event),
      });
      await runtime.clock.advanceUntil(done, 3_600_000);
      return done;
    },
  };
}

describe("two parents with different contents of one length", () => {
  for (const concurrentPieceCount of [2, 3, 8]) {
    it(`fail the task, and both are named; nothing mixed is kept (${concurrentPieceCount} pieces at a time)`, async () => {
      const { fetch, sink } = bench(
        { "a:1": honest(), "b:1": differing },
        { settings: { concurrentPieceCount } },
      );
      const error = await assertRejects(fetch(), "DigestMismatch");
      assert.match(
        error.message,
        /\b[ab]:1 and [ab]:1 have different contents: expected digest crc32:\d+ of piece \d+, got crc32:\d+ from [ab]:1/,
      );
      assert.match(error.message, /a:1/);
      assert.match(error.message, /b:1/);
      assert.equal(sink.ended, "discard");
      sink.assertOneContent();
    });
  }

  it("are detected by one piece of three, wherever the others agree", async () => {
    // The oldest piece is the same in both, like the head of two versions of a file.
    const { fetch, sink } = bench({ "a:1": honest(), "b:1": differingIn((number) => number > 1) });
    await assertRejects(fetch(), "DigestMismatch");
    assert.equal(sink.ended, "discard");
  });

  it("are detected before a piece of a parent that joins late is committed", async () => {
    let late = true;
    const { fetch, sink, parents } = bench({
      "a:1": honest(),
      "b:1": (request) =>
        late ? new VortexError("ConnectionRefused", "not yet") : differing(request),
    });
    const asked = parents.fetchPiece.bind(parents);
    parents.fetchPiece = (request, options) => {
      // Paused for 250 ms, the late parent is asked for the last pieces.
      late = parents.numbers("a:1").length < 12;
      return asked(request, options);
    };
    const { state } = await fetch({}).then(
      ({ verified }) => ({ state: verified.level }),
      (error: VortexError) => ({ state: error.code }),
    );
    // The scheduler decides whether the late parent is asked at all.
    assert.ok(
      state === "DigestMismatch" ||
        (state === "pieces" && sink.committed.every((content) => content === "right")),
    );
    sink.assertOneContent();
  });

  it("are detected if one hedges a piece of the other", async () => {
    // The first parent stalls in its second piece, which the other one delivers.
    const stallingAt1: Behaviour = (request) =>
      request.number === 1 ? silent(request) : honest()(request);
    const { fetch, sink } = bench(
      { "a:1": stallingAt1, "b:1": differing },
      { settings: { concurrentPieceCount: 1 } },
    );
    await assertRejects(fetch(), "DigestMismatch");
    sink.assertOneContent();
  });

  it("are detected across digest algorithms, and equal contents with different algorithms agree", async () => {
    const bySha256 =
      (content: Uint8Array): Behaviour =>
      ({ number }) => {
        const bytes = content.subarray(number * PIECE, (number + 1) * PIECE);
        return new ClaimedContent(bytes, digestOf("sha256", bytes, portableHashers));
      };
    const mixed = bench({ "a:1": honest(), "b:1": bySha256(other) });
    await assertRejects(mixed.fetch(), "DigestMismatch");
    mixed.sink.assertOneContent();
    const same = bench({ "a:1": honest(), "b:1": bySha256(right) });
    assert.deepEqual((await same.fetch()).verified, { level: "pieces" });
    assert.ok(same.parents.digestProbes.length > 0);
  });

  it("are not detected by parts of pieces across digest algorithms, and the result is unverified", async () => {
    const bySha256: Behaviour = ({ bytes }) =>
      new ClaimedContent(bytes, digestOf("sha256", bytes, portableHashers));
    const { fetch, sink, parents } = bench({ "a:1": honest(), "b:1": bySha256 });
    // Covers parts of pieces 3 and 4.
    const range = { start: 3 * PIECE + 500, end: 4 * PIECE + 500 };
    assert.deepEqual((await fetch({ range })).verified, { level: "none" });
    assert.deepEqual([parents.numbers("a:1").length, parents.numbers("b:1").length], [1, 1]);
    assert.ok(sink.committed.every((content) => content === "right"));
  });

  it("fail a stream before its last chunk", async () => {
    const { fetcher, request, clock } = bench({ "a:1": honest(), "b:1": differing });
    const stream = fetcher.streamTask(request);
    let taken = 0;
    const reading = (async () => {
      for await (const chunk of stream.content) taken += chunk.length;
    })();
    const error = rejectionOf(reading);
    await clock.advanceUntil(error, 100_000);
    assert.equal((await error).code, "DigestMismatch");
    assert.ok(taken < right.length);
  });

  it("are detected over a range of them", async () => {
    const range = { start: 2500, end: 12_500 };
    const { fetch, sink } = bench({ "a:1": honest(), "b:1": differing });
    await assertRejects(fetch({ range }), "DigestMismatch");
    sink.assertOneContent();
  });

  it("are detected over gRPC, where each parent is asked for one whole piece", async () => {
    const different = bench({ "a:1": honest(), "b:1": differing }, { usesGrpc: true });
    await assertRejects(different.fetch(), "DigestMismatch");
    different.sink.assertOneContent();
    const same = bench({ "a:1": honest(), "b:1": honest() }, { usesGrpc: true });
    assert.deepEqual((await same.fetch()).verified, { level: "pieces" });
    // The parent that delivers second is compared, and each once more at the end.
    assert.equal(same.parents.digestProbes.length, 1 + 2);
  });

  it("are not compared if the caller gave the digest of each piece", async () => {
    const pieces = Array.from({ length: COUNT }, (_, number) => ({
      number,
      offset: number * PIECE,
      length: PIECE,
      digest: digestOf(
        "sha256",
        right.subarray(number * PIECE, (number + 1) * PIECE),
        portableHashers,
      ),
    }));
    const { fetch, parents, sink } = bench({ "a:1": honest(), "b:1": differing });
    const { contentLength: _, pieceLength: __, ...named } = { contentLength: 0, pieceLength: 0 };
    const { verified } = await fetch({
      contentLength: undefined,
      pieceLength: undefined,
      pieces,
      ...named,
    });
    assert.deepEqual(verified, { level: "pieces" });
    assert.deepEqual(parents.digestProbes, []);
    assert.ok(sink.committed.every((content) => content === "right"));
  });
});

describe("a parent that changes its content during the task", () => {
  for (const [name, from] of [
    ["in the middle", 10],
    ["before its last piece", COUNT - 1],
  ] as const) {
    it(`fails the task (${name})`, async () => {
      const { fetch, sink } = bench(
        { "a:1": (request) => (request.previousRequests < from ? honest() : differing)(request) },
        { settings: { concurrentPieceCount: 1 } },
      );
      const error = await assertRejects(fetch(), "DigestMismatch");
      assert.match(
        error.message,
        /the content of a:1 changed: expected digest crc32:\d+ of piece 0 as before, got crc32/,
      );
      assert.equal(sink.ended, "discard");
    });
  }

  for (const usesGrpc of [false, true]) {
    const over = usesGrpc ? "over gRPC" : "over Vortex";
    for (const changesAt of [1, 2, 5]) {
      it(`fails the task, also when it had another content first (${over}, ${changesAt} pieces of it)`, async () => {
        const { fetch } = bench(
          {
            "a:1": honest(),
            "b:1": (request) =>
              (request.previousRequests < changesAt ? differing : honest())(request),
          },
          { usesGrpc },
        );
        await assertRejects(fetch(), "DigestMismatch");
      });
    }
  }

  it("cannot mix the contents while its first request is in flight", async () => {
    let hasChanged = false;
    const { fetch, parents, sink } = bench({
      "a:1": (request) => (hasChanged ? differing : honest())(request),
    });
    const fetchPiece = parents.fetchPiece.bind(parents);
    let requests = 0;
    parents.fetchPiece = async (request, options) => {
      // The parent changes its content before it handles the first request. It would handle further
      // requests before that.
      if (++requests === 1) {
        await settle();
        assert.equal(requests, 1, "requests before the first announcement");
        hasChanged = true;
      }
      return fetchPiece(request, options);
    };
    assert.deepEqual((await fetch()).verified, { level: "pieces" });
    sink.assertOneContent();
  });

  it("cannot mix the contents by a first request that is announced after its hedged one", async () => {
    const made = bench({ "a:1": honest() });
    const { clock, events } = made;
    const gate = (): { readonly opened: Promise<void>; open(): void } => {
      let open: () => void = () => {};
      const opened = new Promise<void>((resolve) => {
        open = resolve;
      });
      return { opened, open };
    };
    const [first, hedged] = [gate(), gate()];
    const requests: (string | undefined)[] = [];
    const fetchPiece = made.parents.fetchPiece.bind(made.parents);
    Object.assign(made.parents, {
      protocolsOf: () => ["quic", "tcp"] as const,
      fetchPiece: async (request: SourceRequest, options: SourceOptions) => {
        requests.push(request.protocol);
        if (requests.length === 1) {
          // The parent answers from the content that it had at the time of the request.
          made.parents.behave("a:1", differing);
          const piece = fetchPiece(request, options);
          made.parents.behave("a:1", async function* ({ bytes }) {
            await hedged.opened;
            yield bytes;
          });
          await first.opened;
          return piece;
        }
        return fetchPiece(request, options);
      },
    } satisfies Partial<TaskSource>);
    const done = made.fetch({});
    await clock.advance(7_400);
    assert.deepEqual(requests, ["quic"], "the first request runs alone");
    await clock.advance(200);
    assert.deepEqual(requests.slice(0, 2), ["quic", "tcp"], "it is hedged over another route");
    first.open();
    await settle();
    hedged.open();
    const { verified } = await clock.advanceUntil(done, 60_000).then(() => done);
    assert.deepEqual(verified, { level: "pieces" });
    const failures = events.flatMap((event) => (event.type === "piece-failed" ? [event] : []));
    assert.deepEqual(
      failures.map(({ error, protocol }) => [error.code, protocol]),
      [["Stalled", "quic"]],
    );
    made.sink.assertOneContent();
  });

  it("fails the task after an earlier download of the content that it has at the end", async () => {
    const made = bench({
      "a:1": (request) => (request.previousRequests < 3 ? differing : honest())(request),
    });
    const numbers = [4, 0, 9, 2, 11, 7];
    made.sink.found = numbers.map((number) => sunk(number, right));
    made.sink.bytes.set(right);
    await assertRejects(made.fetch(), "DigestMismatch");
    assert.equal(made.sink.ended, "discard");
  });

  it("does not fail the task if the digest of the whole is given: it continues until the whole is right", async () => {
    const { fetch, sink } = bench({
      "a:1": (request) => (request.previousRequests < 5 ? differing : honest())(request),
      "b:1": honest(),
    });
    const { verified } = await fetch({ digest });
    assert.deepEqual(verified, { level: "whole", digest, by: "caller" });
    assert.equal(contentOf(sink.bytes, 0), "right");
  });
});

describe("the digest of the whole", () => {
  const assertRight = async ({ fetch, sink, events }: Bench, liar: string): Promise<void> => {
    const { verified, parents } = await fetch({ digest });
    assert.deepEqual(verified, { level: "whole", digest, by: "caller" });
    assert.equal(contentOf(sink.bytes, 0), "right");
    assert.equal(sink.ended, "finish");
    const { state, reasons } = parents.find(({ parent }) => parent === liar) ?? {};
    if (events.some(({ type }) => type === "restarted") || state === "excluded") {
      assert.equal(state, "excluded");
      assert.ok(
        reasons?.some(({ code }) => code === "DigestMismatch"),
        "the report says why",
      );
    }
  };

  for (const concurrentPieceCount of [1, 8]) {
    it(`decides which of two contents is right, in whatever order they arrive (${concurrentPieceCount} at a time)`, async () => {
      const settings = { concurrentPieceCount };
      await assertRight(bench({ "a:1": honest(), "liar:1": differing }, { settings }), "liar:1");
      await assertRight(bench({ "liar:1": differing, "a:1": honest() }, { settings }), "liar:1");
      await assertRight(
        bench({ "liar:1": differing, "a:1": honest(), "b:1": honest() }, { settings }),
        "liar:1",
      );
    });
  }

  it("finds a lying parent that agrees about all compared pieces, with digests that match its own bytes", async () => {
    // One piece differs, and is not among the compared ones.
    for (const only of [3, 7, 19]) {
      const lying = differingIn((number) => number === only);
      await assertRight(bench({ "liar:1": lying, "a:1": honest() }), "liar:1");
      await assertRight(bench({ "a:1": honest(), "liar:1": lying }), "liar:1");
    }
  });

  it("is reached from parents with parts, beside a liar that has all of a different content", async () => {
    const having =
      (has: (number: number) => boolean): Behaviour =>
      (request) =>
        has(request.number) ? honest()(request) : new VortexError("NotFound", "not here");
    await assertRight(
      bench({
        "liar:1": differing,
        "a:1": having((number) => number < 12),
        "b:1": having((number) => number > 8),
      }),
      "liar:1",
    );
  });

  it("is reached by another parent if the first one, with different content, fails during the task", async () => {
    const dying: Behaviour = (request) =>
      request.previousRequests < 6
        ? differing(request)
        : new VortexError("RemoteUnimplemented", "gone");
    for (const concurrentPieceCount of [2, 8]) {
      const { fetch, sink } = bench(
        { "liar:1": dying, "a:1": honest() },
        { settings: { concurrentPieceCount } },
      );
      assert.deepEqual((await fetch({ digest })).verified, {
        level: "whole",
        digest,
        by: "caller",
      });
      assert.equal(contentOf(sink.bytes, 0), "right");
    }
  });

  it("is reached by the other parent at once if the first is gone, without waiting for it", async () => {
    const lost: Behaviour = async function* () {
      await new Promise<void>((resolve) => void made.clock.setTimer(resolve, 1));
      yield* failWith(new VortexError("ConnectionLost", "gone"));
    };
    const made: Bench = bench(
      {
        "liar:1": (request) => (request.previousRequests < 6 ? differing : lost)(request),
        "a:1": honest(),
      },
      { settings: { patience: 600_000, concurrentPieceCount: 4 } },
    );
    const startedAt = made.clock.now();
    assert.equal((await made.fetch({ digest })).verified.level, "whole");
    assert.equal(contentOf(made.sink.bytes, 0), "right");
    assert.ok(made.events.some(({ type }) => type === "restarted"));
    assert.ok(made.clock.now() - startedAt < 60_000, `${made.clock.now() - startedAt} ms`);
  });

  it("fails the task if no parent has it, once each was tried, and nothing is kept", async () => {
    const { fetch, sink, parents } = bench({
      "a:1": differing,
      "b:1": differing,
      "c:1": differingIn((number) => number > 5),
    });
    const error = await assertRejects(fetch({ digest }), "DigestMismatch");
    assert.match(error.message, /^digest of the task: expected sha256:\w+, got sha256:/);
    assert.equal(sink.ended, "discard");
    assert.ok(parents.asked.length <= 8 * COUNT, `${parents.asked.length} requests`);
  });

  it("decides in the same way if a parent names it instead of the caller", async () => {
    const made = bench(
      { "liar:1": differingIn((number) => number === 7), "a:1": honest() },
      { directory: directoryOf({}) },
    );
    const { contentLength: _, pieceLength: __, ...unknown } = made.request;
    const { verified } = await made.fetch({
      ...unknown,
      contentLength: undefined,
      pieceLength: undefined,
    });
    assert.deepEqual(verified, { level: "whole", digest, by: "parents" });
    assert.equal(contentOf(made.sink.bytes, 0), "right");
  });

  it("cannot save a stream, whose reader already has the earlier bytes", async () => {
    const { fetcher, request, clock } = bench({ "liar:1": differing }, {});
    const stream = fetcher.streamTask({ ...request, digest });
    const error = rejectionOf(stream.bytes());
    await clock.advanceUntil(error, 100_000);
    assert.equal((await error).code, "DigestMismatch");
  });

  it("ends a watcher of the store if pieces are dropped, and the store has the right ones in the end", async () => {
    const { fetcher, request, clock } = bench({
      "liar:1": differingIn((number) => number % 4 === 0 && number > 4),
      "a:1": honest(),
    });
    const sink = memorySink();
    const watched: string[] = [];
    const watch = async (): Promise<void> => {
      const task = await download.store.getTask(taskId);
      try {
        for await (const { number } of task?.watch?.({ signal: new AbortController().signal }) ??
          []) {
          watched.push(`${number}`);
        }
        watched.push("complete");
      } catch (error) {
        watched.push(VortexError.from(error, "Internal").code);
      }
    };
    const download = fetcher.downloadTask({
      ...request,
      digest,
      to: sink,
      onEvent: ({ type }) => void (type === "started" && watch()),
    });
    await clock.advanceUntil(download, 3_600_000);
    assert.equal(contentOf(sink.bytes(), 0), "right");
    assert.ok(watched.includes("8"), "the wrong one was there for a while");
    assert.equal(watched.at(-1), "DigestMismatch");
    const task = await download.store.getTask(taskId);
    assert.deepEqual([task?.complete, [...(task?.pieces() ?? [])].length], [true, COUNT]);
    const served = await download.store.getPiece({ taskId, number: 8, kind: "standard" });
    const chunks: Uint8Array[] = [];
    for await (const chunk of served?.read() ?? []) chunks.push(chunk);
    assert.equal(contentOf(joined(chunks), 8 * PIECE), "right");
    assert.equal(served?.metadata.digest, sunk(8, right).digest);
  });

  it("drops pieces only while neither a commit nor a read is in progress", async () => {
    const made = bench(
      {
        // Delivers two pieces of different content and then fails.
        "liar:1": (request) =>
          request.previousRequests < 2
            ? differing(request)
            : new VortexError("RemoteUnimplemented", "gone"),
        "a:1": honest(),
      },
      { settings: { concurrentPieceCount: 3 } },
    );
    const { sink } = made;
    let under = 0;
    const gate: (() => void)[] = [];
    const slowly = async (): Promise<void> => {
      under++;
      await new Promise<void>((resolve) => gate.push(resolve));
      under--;
    };
    const open = sink.open.bind(sink);
    let committed = 0;
    sink.open = async (layout) => {
      const session = await open(layout);
      return {
        ...session,
        commit: async (piece) => {
          if (++committed === 2) await slowly();
          await session.commit(piece);
        },
        read: async (...args) => {
          if (sink.restarts.length === 0) await slowly();
          return session.read(...args);
        },
        restart: async (kept) => {
          assert.equal(under, 0, "something was under way");
          await session.restart?.(kept);
        },
      };
    };
    const fetched = made.fetch({ digest });
    for (let round = 0; round < 50; round++) {
      await settle();
      assert.equal(sink.restarts.length, 0);
    }
    const releasing = (async () => {
      for (let over = false; !over; ) {
        gate.shift()?.();
        await settle();
        over = sink.ended !== undefined;
      }
    })();
    assert.equal((await fetched).verified.level, "whole");
    await releasing;
    assert.ok(sink.restarts.length > 0);
    assert.equal(contentOf(sink.bytes, 0), "right");
  });
});

describe("pieces of an earlier download", () => {
  const all = Array.from({ length: COUNT }, (_, number) => number);
  const some = [4, 0, 9, 2, 11, 7];

  function left(
    made: Bench,
    numbers: readonly number[],
    content: (number: number) => Uint8Array,
  ): void {
    made.sink.found = numbers.map((number) => sunk(number, content(number)));
    for (const number of numbers) {
      made.sink.bytes.set(
        content(number).subarray(number * PIECE, (number + 1) * PIECE),
        number * PIECE,
      );
    }
  }

  for (const [name, numbers] of [
    ["some of it", some],
    ["all of it", all],
  ] as const) {
    it(`with different content fail the task, and the error names the journal and the parent (${name})`, async () => {
      const made = bench({ "a:1": honest() });
      left(made, numbers, () => other);
      const error = await assertRejects(made.fetch(), "DigestMismatch");
      assert.match(
        error.message,
        /^a:1 and what an earlier download left \(the journal\) have different contents: expected digest \S+ of piece \d+/,
      );
      assert.deepEqual([made.sink.ended, made.sink.committed], ["discard", []]);
    });

    it(`with the same content are used, after a comparison of at most three pieces (${name})`, async () => {
      const made = bench({ "a:1": honest() });
      left(made, numbers, () => right);
      const { verified, resumedPieces } = await made.fetch();
      assert.deepEqual([verified, resumedPieces], [{ level: "pieces" }, numbers.length]);
      assert.equal(contentOf(made.sink.bytes, 0), "right");
      assert.equal(
        new Set(made.parents.asked.map(({ number }) => number)).size,
        COUNT - numbers.length,
      );
      const compared = made.parents.digestProbes.map(({ number }) => number);
      assert.ok(compared.includes(numbers[0] ?? -1), "the oldest one");
      assert.ok(compared.includes(numbers.at(-1) ?? -1), "the newest one");
      assert.ok(compared.length <= 3 + 1, `${compared}`);
    });
  }

  it("with two contents, left by a changed parent and a kill, fail the task by the oldest piece", async () => {
    const made = bench({ "a:1": honest() });
    left(made, some, (number) => (number === some[0] ? other : right));
    await assertRejects(made.fetch(), "DigestMismatch");
    assert.equal(made.sink.ended, "discard");
  });

  it("of two parents that were never compared fails the task, whichever pieces they brought", async () => {
    for (let seen = 0; seen < 20; seen++) {
      const made = bench({ "c:1": honest() });
      const numbers = Array.from({ length: 15 }, (_, number) => number);
      const ofOther = [6, 7];
      made.sink.found = numbers.map((number) => ({
        ...sunk(number, ofOther.includes(number) ? other : right),
        source: ofOther.includes(number) ? "b:1" : "a:1",
      }));
      for (const number of numbers) {
        const content = ofOther.includes(number) ? other : right;
        made.sink.bytes.set(content.subarray(number * PIECE, (number + 1) * PIECE), number * PIECE);
      }
      const error = await assertRejects(made.fetch(), "DigestMismatch");
      assert.match(error.message, /what an earlier download from [ab]:1 left \(the journal\)/);
    }
  });

  it("keeps the parent of each piece, for the download after it", async () => {
    const { fetch, sink } = bench({ "a:1": honest() });
    const sources: (string | undefined)[] = [];
    const open = sink.open.bind(sink);
    sink.open = async (layout) => {
      const session = await open(layout);
      return {
        ...session,
        commit: async (piece) => {
          sources.push(piece.source);
          await session.commit(piece);
        },
      };
    };
    await fetch();
    assert.deepEqual(new Set(sources), new Set(["a:1"]));
  });

  it("with different content are dropped if the digest of the whole is given, and the task continues", async () => {
    const made = bench({ "a:1": honest(), "b:1": honest() });
    left(made, some, () => other);
    const { verified, resumedPieces } = await made.fetch({ digest });
    assert.deepEqual([verified.level, resumedPieces], ["whole", 0]);
    assert.equal(contentOf(made.sink.bytes, 0), "right");
    assert.deepEqual(made.sink.restarts, [[]]);
  });

  it("are verified before a piece of a parent is committed, if parents are asked about them", async () => {
    const made = bench({ "a:1": honest() });
    left(made, some, () => other);
    const { sink } = made;
    const open = sink.open.bind(sink);
    let read = (): void => {};
    const isRead = new Promise<void>((resolve) => {
      read = resolve;
    });
    sink.open = async (layout) => {
      const session = await open(layout);
      return {
        ...session,
        read: async (...args) => {
          await isRead;
          return session.read(...args);
        },
      };
    };
    const fetched = rejectionOf(made.fetch());
    for (let round = 0; round < 20; round++) await settle();
    assert.ok(made.parents.asked.length > 0, "pieces come meanwhile");
    assert.deepEqual(sink.committed, []);
    read();
    assert.equal((await fetched).code, "DigestMismatch");
    assert.deepEqual(sink.committed, []);
  });

  it("that are complete are compared with a parent that has not announced its pieces yet", async () => {
    const outline: TaskOutline = {
      contentLength: right.length,
      pieceLength: PIECE,
      pieceCount: COUNT,
    };
    const made = bench(
      { "a:1": honest() },
      {
        directory: {
          ...directoryOf({}, outline),
          async *sync(_addr, _id, { signal }) {
            await until(signal).catch(() => {});
          },
        },
      },
    );
    left(made, all, () => right);
    assert.deepEqual(
      (await made.fetch({ contentLength: undefined, pieceLength: undefined })).verified,
      {
        level: "pieces",
      },
    );
  });

  it("that are complete, without a parent to compare them, are reported as unverified", async () => {
    const made = bench({ "a:1": failing("ConnectionRefused") });
    left(made, all, () => right);
    assert.deepEqual((await made.fetch()).verified, { level: "none" });
  });

  it("are not mixed with a parent that cannot be compared without the report saying so", async () => {
    // The parent has only the missing pieces.
    const made = bench({
      "a:1": (request) =>
        some.includes(request.number) ? new VortexError("NotFound", "not here") : honest()(request),
    });
    left(made, some, () => right);
    assert.deepEqual((await made.fetch()).verified, { level: "none" });
  });
});

describe("the verification of the content", () => {
  it("is by pieces for one parent, and for several that agree", async () => {
    for (const parents of [["a:1"], ["a:1", "b:1"], ["a:1", "b:1", "c:1"]]) {
      const made = bench(Object.fromEntries(parents.map((name) => [name, honest()])));
      assert.deepEqual((await made.fetch()).verified, { level: "pieces" }, `${parents}`);
    }
  });

  it("is none if two parents have no piece in common", async () => {
    const having =
      (has: (number: number) => boolean): Behaviour =>
      (request) =>
        has(request.number) ? honest()(request) : new VortexError("NotFound", "not here");
    const made = bench({
      "a:1": having((number) => number % 2 === 0),
      "b:1": having((number) => number % 2 === 1),
    });
    assert.deepEqual((await made.fetch()).verified, { level: "none" });
  });

  it("is by pieces if parents have overlapping parts", async () => {
    const having =
      (has: (number: number) => boolean): Behaviour =>
      (request) =>
        has(request.number) ? honest()(request) : new VortexError("NotFound", "not here");
    const made = bench({
      "a:1": having((number) => number < 12),
      "b:1": having((number) => number > 8),
    });
    const { verified } = await made.fetch();
    assert.ok(["pieces", "none"].includes(verified.level));
    assert.equal(contentOf(made.sink.bytes, 0), "right");
  });

  it("is by pieces if a parent died during the task, since another one has its last piece", async () => {
    const made = bench(
      {
        "a:1": (request) =>
          request.previousRequests < 6
            ? honest()(request)
            : new VortexError("RemoteUnimplemented", "gone"),
        "b:1": honest(),
      },
      { settings: { concurrentPieceCount: 2 } },
    );
    assert.deepEqual((await made.fetch()).verified, { level: "pieces" });
  });

  it("is none if the only parent died before its final question", async () => {
    const made = bench(
      {
        "a:1": (request) =>
          request.previousRequests < COUNT
            ? honest()(request)
            : new VortexError("ConnectionRefused", "gone"),
      },
      { settings: { concurrentPieceCount: 1 } },
    );
    assert.deepEqual((await made.fetch()).verified, { level: "none" });
  });
});

describe("the questions to parents", () => {
  it("are three for each parent that joins and one at the end, and their content is cancelled unread", async () => {
    const made = bench({ "a:1": honest(), "b:1": honest(), "c:1": honest() });
    await made.fetch();
    for (const name of ["a:1", "b:1", "c:1"]) {
      const asked = made.parents.digestProbes.filter(({ addr }) => addr === name);
      assert.ok(asked.length <= 3 + 1, `${name}: ${asked.length}`);
    }
    assert.equal(made.parents.asked.length, COUNT, "each piece is read once");
    assert.deepEqual([...made.parents.inFlight.values()], [0, 0, 0], "nothing is left under way");
  });

  it("respect the limit of requests to one parent, also a limit of one", async () => {
    for (const parentConcurrency of [1, 2]) {
      const made = bench(
        { "a:1": honest(), "b:1": honest() },
        { settings: { parentConcurrency, concurrentPieceCount: 8 } },
      );
      const open = new Map<string, number>();
      const real = made.parents.fetchPiece.bind(made.parents);
      let most = 0;
      made.parents.fetchPiece = async (request, options) => {
        const now = (open.get(request.addr) ?? 0) + 1;
        open.set(request.addr, now);
        most = Math.max(most, now);
        const piece = await real(request, options);
        const over = (): void => void open.set(request.addr, (open.get(request.addr) ?? 0) - 1);
        let read: Promise<Uint8Array<ArrayBuffer> | undefined>;
        return {
          ...piece,
          read: async (into) => {
            read = piece.read(into);
            const chunk = await read;
            if (chunk === undefined) over();
            return chunk;
          },
          cancel: () => {
            over();
            piece.cancel();
          },
        };
      };
      assert.deepEqual((await made.fetch()).verified, { level: "pieces" });
      assert.ok(most <= parentConcurrency, `${most} at once`);
    }
  });

  it("leave the pieces of a parent uncommitted if they fail, and are asked again", async () => {
    let broken = 0;
    const made = bench({
      "a:1": (request) =>
        request.number < 4 ? honest()(request) : new VortexError("NotFound", "not here"),
      // Loses the connection at its first two answers to a question, before it delivered a piece.
      "b:1": (request) => {
        if (
          made.parents.numbers("a:1").includes(request.number) &&
          request.number < 4 &&
          broken++ < 2
        ) {
          return new VortexError("ConnectionLost", "lost");
        }
        return honest()(request);
      },
    });
    const { verified, parents } = await made.fetch();
    assert.deepEqual(verified, { level: "pieces" });
    assert.equal(contentOf(made.sink.bytes, 0), "right");
    assert.ok(broken > 2 && (parents[1]?.pieces ?? 0) >= COUNT - 4);
  });

  it("time out at the end after a quarter of the stall timeout, like an attempt before it is hedged", async () => {
    const made = bench({ "a:1": honest() }, { settings: { stallTimeout: 20_000 } });
    const real = made.parents.fetchPiece.bind(made.parents);
    const waits: number[] = [];
    made.parents.fetchPiece = (request, options) => {
      waits.push((options as { readonly stallTimeout?: number }).stallTimeout ?? 0);
      return real(request, options);
    };
    await made.fetch();
    assert.deepEqual(waits, [...Array.from({ length: COUNT }, () => 20_000), 5000]);
  });

  it("come at the end over gRPC, after all pieces: no further whole message is held beside those in flight", async () => {
    const made = bench({ "a:1": honest() }, { usesGrpc: true });
    const real = made.parents.fetchPiece.bind(made.parents);
    const committed: number[] = [];
    let asked = 0;
    made.parents.fetchPiece = (request, options) => {
      if (asked++ === COUNT) committed.push(made.sink.committed.length);
      return real(request, options);
    };
    await made.fetch();
    assert.deepEqual([asked, committed], [COUNT + 1, [COUNT]]);
  });

  it("that stall delay neither the pieces of other parents nor the end", async () => {
    // Delivers the pieces that no other parent was asked for, and stalls on all others.
    const made = bench({
      "a:1": honest(),
      "b:1": (request) =>
        made.parents.numbers("a:1").includes(request.number)
          ? silentAnnouncement(request)
          : honest()(request),
    });
    const startedAt = made.clock.now();
    const { bytes } = await made.fetch();
    assert.equal(bytes, right.length);
    assert.equal(contentOf(made.sink.bytes, 0), "right");
    assert.ok(made.clock.now() - startedAt < 120_000, `${made.clock.now() - startedAt} ms`);
  });

  it("do not blame a parent for the wrong bytes of another", async () => {
    const made = bench({ "a:1": corrupt, "b:1": honest() });
    const { verified, parents } = await made.fetch();
    assert.deepEqual([verified.level, parents[1]?.state], ["pieces", "active"]);
  });
});

function failWith(error: VortexError): Iterable<Uint8Array> {
  throw error;
}

/** Fails like a stalled request: with neither announcement nor content. */
function silentAnnouncement(_request: ParentRequest): VortexError {
  return new VortexError("Stalled", "no byte came");
}

describe("digests of the whole from parents", () => {
  const outline: TaskOutline = {
    contentLength: right.length,
    pieceLength: PIECE,
    pieceCount: COUNT,
  };
  const unknown = { contentLength: undefined, pieceLength: undefined };

  it("exclude a parent that names another digest than the first one, and no piece is fetched from it", async () => {
    const made = bench(
      { "a:1": honest(), "b:1": differing },
      {
        directory: directoryOf({
          "b:4000": { ...outline, digest: digestOf("sha256", other, portableHashers) },
        }),
      },
    );
    const { verified, parents } = await made.fetch(unknown);
    assert.deepEqual(verified, { level: "whole", digest, by: "parents" });
    assert.deepEqual(
      [parents[1]?.state, parents[1]?.reasons[0]?.code],
      ["excluded", "DigestMismatch"],
    );
    assert.deepEqual(made.parents.numbers("b:1"), []);
    assert.equal(contentOf(made.sink.bytes, 0), "right");
  });

  it("are not required: parents that name none are compared by their pieces", async () => {
    const made = bench(
      { "a:1": honest(), "b:1": differing },
      { directory: directoryOf({}, outline) },
    );
    await assertRejects(made.fetch(unknown), "DigestMismatch");
    made.sink.assertOneContent();
  });
});

/** Returns a directory whose parents have all pieces and name the digest, except as given. */
function directoryOf(
  outlines: Readonly<Record<string, TaskOutline>>,
  usual: TaskOutline = {
    contentLength: right.length,
    pieceLength: PIECE,
    pieceCount: COUNT,
    digest,
  },
): TaskDirectory {
  return {
    stat: async (addr) => outlines[addr] ?? usual,
    async *sync(): AsyncGenerator<PieceLocation> {
      for (let number = 0; number < COUNT; number++)
        yield { number, offset: number * PIECE, length: PIECE };
    },
  };
}

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { readVerified, validateAnnouncement } from "../../../src/client/call/announcement.ts";
import { CallScope } from "../../../src/client/call/scope.ts";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { type ErrorCode, VortexError } from "../../../src/errors.ts";
import { type Piece, pieceExtent } from "../../../src/piece.ts";
import type { PieceLocation, TaskDirectory, TaskOutline } from "../../../src/task/discovery.ts";
import type { TaskFetcher } from "../../../src/task/fetcher.ts";
import { TaskLayout } from "../../../src/task/layout.ts";
import { memorySink } from "../../../src/task/memory-sink.ts";
import { requireDigest } from "../../../src/task/piece-check.ts";
import { type RandomAccess, randomAccessSink } from "../../../src/task/random-access-sink.ts";
import type { SinkSession, TaskSink } from "../../../src/task/sink.ts";
import type { TaskSettings } from "../../../src/task/source.ts";
import type { TaskDownload, TaskEvent, TaskStreamOptions } from "../../../src/task/task.ts";
import type { Operation, Telemetry } from "../../../src/telemetry.ts";
import { assertRejects, assertThrows, rejectionOf } from "../../support/failures.ts";
import { type FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import { joined, seededBytes } from "../../support/random.ts";
import {
  type Behaviour,
  chunksOf,
  corrupt,
  FakeParents,
  failing,
  fetcherOf,
  honest,
  silent,
  stalling,
  taskId,
  taskSettings,
  until,
} from "../../support/task-parents.ts";

const PIECE = 4096;
const content = seededBytes(7, 20 * PIECE + 123);

interface Bench {
  readonly clock: FakeClock;
  readonly parents: FakeParents;
  readonly fetcher: TaskFetcher;
  readonly request: TaskStreamOptions;
  readonly events: TaskEvent[];
  /** Fetches a task to memory and returns its content. */
  fetch(
    options?: Partial<TaskStreamOptions>,
  ): Promise<{ bytes: Uint8Array; download: TaskDownload }>;
  /** Waits for a promise, advancing the clock as far as necessary. */
  settled<T>(promise: Promise<T>): Promise<T>;
}

function bench(
  behaviours: Readonly<Record<string, Behaviour>>,
  options: {
    readonly settings?: Partial<TaskSettings>;
    readonly directory?: TaskDirectory;
    readonly algorithm?: "crc32" | "sha256";
    readonly content?: Uint8Array;
  } = {},
): Bench {
  const runtime = fakeRuntime();
  const parents = new FakeParents(options.content ?? content, PIECE, behaviours, options);
  const settings = taskSettings(options.settings, runtime);
  const { fetcher, request } = fetcherOf(parents, Object.keys(behaviours), settings);
  const events: TaskEvent[] = [];
  const settled = async <T>(promise: Promise<T>): Promise<T> => {
    await runtime.clock.advanceUntil(promise, 3_600_000);
    return promise;
  };
  return {
    clock: runtime.clock,
    parents,
    fetcher,
    request,
    events,
    settled,
    async fetch(options = {}) {
      const to = memorySink();
      const onEvent = (event: TaskEvent): void => {
        events.push(event);
        options.onEvent?.(event);
      };
      const download = fetcher.downloadTask({
        ...request,
        ...options,
        onEvent,
        to,
      });
      await settled(download);
      return { bytes: to.bytes(), download };
    },
  };
}

/** Returns a signal and the function that aborts it. */
function controller(): { readonly signal: AbortSignal; abort(reason?: unknown): void } {
  const own = new AbortController();
  return { signal: own.signal, abort: (reason) => own.abort(reason) };
}

/** Compares bytes without printing them. */
function assertBytes(found: Uint8Array, expected: Uint8Array): void {
  assert.equal(found.length, expected.length);
  assert.equal(Buffer.compare(found, expected), 0, "the bytes differ");
}

/** Sink that keeps the content in one array and records the calls to it. */
class NotingSink implements TaskSink {
  readonly calls: string[] = [];
  bytes: Uint8Array = new Uint8Array(0);
  found: SinkSession["resumed"] = [];
  onWrite: (number: number, position: number) => Promise<void> | void = () => {};
  onRead: () => Promise<void> | void = () => {};

  async open(layout: Parameters<TaskSink["open"]>[0]): Promise<SinkSession> {
    if (this.bytes.length !== layout.length) this.bytes = new Uint8Array(layout.length);
    const note = (call: string): void => {
      this.calls.push(call);
    };
    return {
      resumed: this.found,
      write: async (number, position, chunk) => {
        await this.onWrite(number, position);
        note(`write ${number}`);
        this.bytes.set(chunk, position);
      },
      commit: async ({ number }) => note(`commit ${number}`),
      read: async (_number, position, length) => {
        await this.onRead();
        return this.bytes.subarray(position, position + length);
      },
      advance: async (position) => note(`advance ${position}`),
      finish: async () => note("finish"),
      abort: async (_error, { discard = false } = {}) => note(discard ? "discard" : "abort"),
    };
  }
}

describe("telemetry of a task", () => {
  it("is one operation with its bytes or its error, and piece requests run inside it", async () => {
    for (const [behaviour, ended] of [
      [honest(), `bytes ${content.length}`],
      [corrupt, "error DigestMismatch"],
    ] as const) {
      const log: string[] = [];
      let inside = false;
      const telemetry: Telemetry = {
        begin({ name, role, taskId }) {
          log.push(`${name} as ${role} of ${taskId.length}`);
          return {
            end: ({ bytes, error }) =>
              log.push(error === undefined ? `bytes ${bytes}` : `error ${error.code}`),
            run(work) {
              inside = true;
              try {
                return work();
              } finally {
                inside = false;
              }
            },
          };
        },
      };
      const asked: boolean[] = [];
      const watched: Behaviour = (request) => {
        asked.push(inside);
        return behaviour(request);
      };
      const { fetch } = bench({ "a:1": watched }, { settings: { telemetry } });
      await fetch().catch(() => {});
      assert.deepEqual(log, ["download_task as client of 64", ended]);
      assert.ok(asked.length > 0 && asked.every((within) => within), `${asked}`);
    }
  });
});

describe("a task from several parents", () => {
  it("delivers the content, and the report has the share of each parent", async () => {
    const { fetch, parents } = bench({ "a:1": honest(), "b:1": honest(), "c:1": honest() });
    const { bytes, download } = await fetch();
    assertBytes(bytes, content);
    assert.deepEqual(
      parents.numbers().sort((a, b) => a - b),
      Array.from({ length: 21 }, (_, number) => number),
    );
    const report = await download;
    assert.deepEqual([report.bytes, report.pieces, report.resumedPieces], [content.length, 21, 0]);
    assert.equal(
      report.parents.reduce((sum, parent) => sum + parent.pieces, 0),
      21,
    );
    assert.equal(
      report.parents.reduce((sum, parent) => sum + parent.bytes, 0),
      content.length,
    );
  });

  it("completes an empty task without a request", async () => {
    const { fetch, parents } = bench({ "a:1": silent }, { content: new Uint8Array(0) });
    assertBytes((await fetch()).bytes, new Uint8Array(0));
    assert.deepEqual(parents.asked, []);
  });

  it("succeeds with one parent gone, one stalling and one corrupting every fifth piece, and reports the three", async () => {
    const { fetch, events } = bench({
      "good:1": honest(),
      "stalls:1": stalling,
      "lies:1": (request) => (request.number % 5 === 0 ? corrupt(request) : honest()(request)),
      "gone:1": failing("ConnectionRefused"),
    });
    const { bytes, download } = await fetch({ concurrentPieceCount: 8 });
    assertBytes(bytes, content);
    const { parents } = await download;
    const reasons = Object.fromEntries(
      parents.map((parent) => [parent.parent, parent.reasons.map(({ code }) => code)] as const),
    );
    assert.deepEqual(reasons["good:1"], []);
    assert.ok(reasons["stalls:1"]?.includes("Stalled"));
    assert.ok(reasons["lies:1"]?.includes("DigestMismatch"));
    assert.ok(reasons["gone:1"]?.includes("ConnectionRefused"));
    assert.equal(parents.find(({ parent }) => parent === "lies:1")?.state, "excluded");
    assert.ok(
      events.some((event) => event.type === "parent-excluded" && event.parent === "lies:1"),
    );
    assert.ok(events.some((event) => event.type === "hedged"));
  });

  it("fails once no parent is left, with an error that names each parent and has their errors as cause", async () => {
    const { fetch } = bench({ "a:1": corrupt, "b:1": failing("RemoteUnimplemented") });
    const error = await rejectionOf(fetch());
    assert.equal(error.code, "Unreachable");
    assert.match(error.message, /a:1: DigestMismatch/);
    assert.match(error.message, /b:1: RemoteUnimplemented/);
    assert.ok(error.cause instanceof AggregateError);
    assert.deepEqual(
      error.cause.errors.map(({ code, addr }: VortexError) => `${addr} ${code}`).sort(),
      ["a:1 DigestMismatch", "b:1 RemoteUnimplemented"],
    );
  });

  it("fails as NotFound if no parent has the task", async () => {
    const { fetch } = bench({ "a:1": failing("NotFound"), "b:1": failing("NotFound") });
    await assertRejects(fetch(), "NotFound");
  });

  it("fetches a piece that one parent lacks from another", async () => {
    const { fetch, parents } = bench({
      "a:1": (request) =>
        request.number % 2 === 0 ? honest()(request) : new VortexError("NotFound", "no"),
      "b:1": honest(),
    });
    assertBytes((await fetch()).bytes, content);
    assert.ok(parents.numbers("b:1").filter((number) => number % 2 === 1).length >= 10);
  });

  it("uses a parent again that recovers", async () => {
    const { fetch } = bench({
      "a:1": (request) =>
        request.previousRequests < 8
          ? new VortexError("ConnectionLost", "lost")
          : honest()(request),
    });
    const { bytes, download } = await fetch();
    assertBytes(bytes, content);
    assert.equal((await download).parents[0]?.pieces, 21);
  });

  for (const code of ["InvalidArgument", "Internal"] as const) {
    it(`survives ${code} errors that one parent causes`, async () => {
      const { fetch } = bench({ "a:1": failing(code), "b:1": honest() });
      const { bytes, download } = await fetch();
      assertBytes(bytes, content);
      assert.equal((await download).parents[0]?.state, "excluded");
    });

    it(`fails as ${code} if every parent fails that way`, async () => {
      const { fetch } = bench({ "a:1": failing(code), "b:1": failing(code) });
      await assertRejects(fetch(), code);
    });
  }

  it("rejects a piece at a wrong offset", async () => {
    const { fetcher, request, settled } = bench({ "a:1": honest() });
    const wrong = { ...request, contentLength: content.length, pieceLength: PIECE * 2 };
    const error = await rejectionOf(settled(fetcher.downloadTask({ ...wrong, to: memorySink() })));
    assert.equal(error.code, "PieceMismatch");
  });

  it("never exceeds the pieces in flight, nor the requests to one parent", async () => {
    const one = bench({ "a:1": honest(), "b:1": honest() });
    await one.fetch({ concurrentPieceCount: 3 });
    assert.ok(one.parents.maxInFlight <= 3, `${one.parents.maxInFlight} at once`);
    const two = bench({ "a:1": honest() }, { settings: { parentConcurrency: 2 } });
    await two.fetch({ concurrentPieceCount: 8 });
    assert.ok(two.parents.maxInFlight <= 2, `${two.parents.maxInFlight} at once`);
  });

  it("has at most 16 MiB of long pieces in flight over gRPC, where a piece is a message, but at least one", async () => {
    for (const [mebibytes, most] of [
      [2, 8],
      [4, 4],
      [6, 2],
      [20, 1],
    ] as const) {
      const length = mebibytes * 1024 * 1024;
      const parents = new FakeParents(
        new Uint8Array(9 * 4 * 1024 * 1024 + length),
        length,
        { "a:1": honest(length) },
        { usesGrpc: true },
      );
      const { fetcher, request } = fetcherOf(parents, ["a:1"]);
      await fetcher.downloadTask({ ...request, to: memorySink() });
      assert.equal(parents.maxInFlight, most, `${mebibytes} MiB`);
    }
  });
});

describe("validation of a request", () => {
  const { fetcher, request } = bench({ "a:1": honest() });
  const to = memorySink();
  const bad: [string, Partial<TaskStreamOptions>][] = [
    ["no parents", { parents: [] }],
    ["a parent without an address", { parents: [{}] }],
    ["a malformed address", { parents: ["nowhere"] }],
    ["a digest of no known kind", { digest: "md5:00" }],
    ["a digest of a range", { digest: `sha256:${"0".repeat(64)}`, range: { start: 0, end: 1 } }],
    ["an open range at the end", { range: { start: content.length } }],
    ["a range behind the end", { range: { start: 0, end: content.length + 1 } }],
    ["a range that ends before it begins", { range: { start: 9, end: 8 } }],
    [
      "a range that ends before it begins, without lengths",
      { contentLength: undefined, pieceLength: undefined, range: { start: 5, end: 1 } },
    ],
    ["a task ID that a packet cannot carry", { taskId: "abc" }],
    ["a piece length of 0", { pieceLength: 0 }],
    ["pieces and a piece length", { pieces: [{ number: 0, offset: 0, length: 1 }] }],
    ["no pieces at a time", { concurrentPieceCount: 0 }],
    ["a rate of 0", { rateLimit: 0 }],
  ];
  for (const [name, changes] of bad) {
    it(`rejects ${name} as InvalidArgument`, async () => {
      await assertRejects(fetcher.downloadTask({ ...request, ...changes, to }), "InvalidArgument");
    });
  }

  it("names both digest and range if it rejects their combination", async () => {
    const digest = `sha256:${"0".repeat(64)}`;
    for (const [range, text] of [
      [{ start: 0, end: 1 }, "0 to 1"],
      [{ start: 2 }, "2 to the end"],
    ] as const) {
      const refused = await assertRejects(
        fetcher.downloadTask({ ...request, digest, range, to }),
        "InvalidArgument",
      );
      assert.ok(
        refused.message.startsWith(`digest ${digest} and range ${text}: expected one of them`),
        refused.message,
      );
    }
  });

  it("rejects missing lengths as InvalidArgument if no directory can be asked", async () => {
    const { taskId: id, hostId, parents } = request;
    await assertRejects(
      fetcher.downloadTask({ taskId: id, hostId, parents, to }),
      "InvalidArgument",
    );
  });

  it("rejects a list of pieces with a gap as InvalidArgument", async () => {
    const { taskId: id, hostId, parents } = request;
    const pieces = [
      { number: 0, offset: 0, length: 10 },
      { number: 1, offset: 11, length: 10 },
    ];
    await assertRejects(
      fetcher.downloadTask({ taskId: id, hostId, parents, pieces, to }),
      "InvalidArgument",
    );
  });
});

describe("digests", () => {
  for (const algorithm of ["crc32", "sha256", "sha512"] as const) {
    it(`verifies the whole by ${algorithm}, in whatever order its pieces arrive`, async () => {
      const shuffled: Behaviour = async function* ({ number, bytes, signal }) {
        // Later pieces arrive first.
        await Promise.race([
          new Promise((resolve) => setTimeout(resolve, (20 - number) % 7)),
          until(signal),
        ]);
        yield bytes;
      };
      const { fetch } = bench({ "a:1": shuffled, "b:1": shuffled });
      const digest = digestOf(algorithm, content, portableHashers);
      const { bytes, download } = await fetch({ digest });
      assertBytes(bytes, content);
      assert.deepEqual((await download).verified, { level: "whole", digest, by: "caller" });
    });
  }

  it("fails as DigestMismatch for a wrong whole, and neither finishes nor keeps anything", async () => {
    const { fetcher, request, settled } = bench({ "a:1": honest() });
    const to = new NotingSink();
    const digest = digestOf("sha256", content.subarray(1), portableHashers);
    await assertRejects(
      settled(fetcher.downloadTask({ ...request, digest, to })),
      "DigestMismatch",
    );
    assert.ok(!to.calls.includes("finish"));
    assert.equal(to.calls.at(-1), "discard");
  });

  it("verifies pieces by the digests of the caller, also by another algorithm than that of the parents", async () => {
    const { parents, fetcher, settled } = bench({ "a:1": honest() });
    const listed = (digestFor: (number: number) => string): TaskStreamOptions => ({
      taskId,
      hostId: "h",
      parents: ["a:1"],
      pieces: Array.from({ length: 21 }, (_, number) => ({
        number,
        ...pieceExtent(parents.plan, number),
        digest: digestFor(number),
      })),
    });
    const right = listed((number) => digestOf("sha256", parents.bytesOf(number), portableHashers));
    const to = memorySink();
    await settled(fetcher.downloadTask({ ...right, to }));
    assertBytes(to.bytes(), content);
    const wrong = listed((number) =>
      digestOf("sha256", parents.bytesOf(number === 9 ? 8 : number), portableHashers),
    );
    const error = await rejectionOf(settled(fetcher.downloadTask({ ...wrong, to: memorySink() })));
    assert.equal(error.code, "DigestMismatch");
    const announced = listed((number) =>
      number === 9 ? "crc32:1" : digestOf("crc32", parents.bytesOf(number), portableHashers),
    );
    const before = parents.asked.length;
    assert.equal(
      (await rejectionOf(settled(fetcher.downloadTask({ ...announced, to: memorySink() })))).code,
      "DigestMismatch",
    );
    assert.ok(parents.asked.length > before);
  });

  it("accepts an announced digest that differs from the caller's in spelling only", () => {
    const sha256 = digestOf("sha256", content.subarray(0, 5), portableHashers);
    const pieces = [{ number: 0, offset: 0, length: 5, digest: sha256 }];
    const layout = TaskLayout.known({ taskId, kind: "standard" }, { pieces });
    assert.ok(layout !== undefined);
    const announced = (digest: string) => ({ number: 0, digest }) as Piece;
    requireDigest(announced(`sha256:${sha256.slice(7).toUpperCase()}`), layout);
    requireDigest(announced("crc32:1"), layout);
    assertThrows(
      () => requireDigest(announced(`sha256:${"0".repeat(64)}`), layout),
      "DigestMismatch",
    );
  });

  it("fetches a list of pieces of varying length", async () => {
    const bytes = seededBytes(3, PIECE * 3);
    const parents = new FakeParents(bytes, PIECE, { "a:1": honest() });
    const { fetcher } = fetcherOf(parents, ["a:1"]);
    const pieces = [0, 1, 2].map((number) => ({ number, offset: number * PIECE, length: PIECE }));
    const stream = fetcher.streamTask({ taskId, hostId: "h", parents: ["a:1"], pieces });
    assertBytes(await stream.bytes(), bytes);
  });
});

describe("ranges", () => {
  for (const [start, end] of [
    [0, 1],
    [0, PIECE],
    [PIECE, 2 * PIECE],
    [PIECE - 1, PIECE + 1],
    [5000, 50_000],
    [content.length - 1, content.length],
    [10, 10],
    [0, content.length],
  ] as const) {
    it(`delivers bytes ${start} to ${end} to the sink, and requests only the pieces that they overlap`, async () => {
      const { fetch, parents } = bench({ "a:1": honest(1000) });
      const { bytes } = await fetch({ range: { start, end } });
      assertBytes(bytes, content.subarray(start, end));
      const first = Math.floor(start / PIECE);
      const count = end === start ? 0 : Math.floor((end - 1) / PIECE) - first + 1;
      assert.deepEqual(
        parents.numbers().sort((a, b) => a - b),
        Array.from({ length: count }, (_, index) => first + index),
      );
    });
  }
});

describe("hedged attempts", () => {
  it("the winner overwrites what the loser wrote, and nothing is written after the end", async () => {
    // The first parent sends wrong bytes and stalls just before the end of each piece.
    const poisoning: Behaviour = async function* ({ bytes, signal }) {
      yield new Uint8Array(bytes.length - 100).fill(0xee);
      yield new Uint8Array(50).fill(0xee);
      await until(signal);
    };
    const { fetcher, request, settled } = bench({ "a:1": poisoning, "b:1": honest() });
    const to = new NotingSink();
    await settled(fetcher.downloadTask({ ...request, to }));
    assertBytes(to.bytes, content);
    for (let number = 0; number < 21; number++) {
      const commit = to.calls.indexOf(`commit ${number}`);
      assert.ok(
        commit > to.calls.lastIndexOf(`write ${number}`),
        `piece ${number} was written after its end`,
      );
    }
  });

  it("a parent that sends all but the end at once, and then one byte per second, is overtaken soon", async () => {
    const wait = (milliseconds: number): Promise<void> =>
      new Promise((resolve) => void made.clock.setTimer(resolve, milliseconds));
    const paced = async function* ({
      bytes,
      signal,
    }: Parameters<Behaviour>[0]): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < bytes.length && !signal.aborted; at += 512) {
        await wait(100);
        yield bytes.subarray(at, at + 512);
      }
    };
    const dripping = async function* ({
      bytes,
      signal,
    }: Parameters<Behaviour>[0]): AsyncGenerator<Uint8Array> {
      await wait(10);
      yield bytes.subarray(0, -100);
      for (let at = bytes.length - 100; at < bytes.length && !signal.aborted; at++) {
        await wait(1000);
        yield bytes.subarray(at, at + 1);
      }
    };
    const made: Bench = bench({ "a:1": dripping, "b:1": paced });
    const { fetcher, request, clock } = made;
    const to = memorySink();
    const done = fetcher.downloadTask({ ...request, to });
    // The other parent alone takes 3 s; the end of one piece from this parent takes 100 s.
    assert.ok((await clock.advanceUntil(done, 600_000)) < 30_000);
    await done;
    assertBytes(to.bytes(), content);
  });

  it("a winner waits for the loser's pending write, and then writes the whole piece itself", async () => {
    let entered = (): void => {};
    let leave = (): void => {};
    const inside = new Promise<void>((resolve) => {
      entered = resolve;
    });
    const gate = new Promise<void>((resolve) => {
      leave = resolve;
    });
    const poisoning: Behaviour = async function* ({ signal }) {
      yield new Uint8Array(10).fill(0xee);
      yield new Uint8Array(10).fill(0xee);
      await until(signal);
    };
    const small = content.subarray(0, 1000);
    const runtime = fakeRuntime();
    const parents = new FakeParents(small, PIECE, { "a:1": poisoning, "b:1": honest(100) });
    const { fetcher, request } = fetcherOf(parents, ["a:1", "b:1"], taskSettings({}, runtime));
    const to = new NotingSink();
    let first = true;
    to.onWrite = async () => {
      if (!first) return;
      first = false;
      entered();
      await gate;
    };
    const download = fetcher.downloadTask({ ...request, to });
    await inside;
    // The writer is inside the sink, which is a local delay: nothing is hedged until it returns and
    // its parent stalls.
    await runtime.clock.advance(60_000);
    assert.deepEqual(parents.numbers("b:1"), []);
    leave();
    await runtime.clock.advanceUntil(download, 100_000);
    assertBytes(to.bytes, small);
  });

  it("two attempts that have all bytes while the sink still takes them commit and count the piece once", async () => {
    let entered = (): void => {};
    let leave = (): void => {};
    let goOn = (): void => {};
    const inside = new Promise<void>((resolve) => {
      entered = resolve;
    });
    const gate = new Promise<void>((resolve) => {
      leave = resolve;
    });
    const resumed = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const late: Behaviour = async function* ({ bytes }) {
      yield bytes.subarray(0, 500);
      await resumed;
      yield bytes.subarray(500);
    };
    const small = content.subarray(0, 1000);
    const runtime = fakeRuntime();
    // Bytes are gathered, and reach the sink at the end of the piece.
    const parents = new FakeParents(
      small,
      PIECE,
      { "a:1": late, "b:1": honest(100) },
      { readsInto: true },
    );
    const { fetcher, request } = fetcherOf(parents, ["a:1", "b:1"], taskSettings({}, runtime));
    const to = new NotingSink();
    to.onWrite = async () => {
      entered();
      await gate;
    };
    let counted = 0;
    const download = fetcher.downloadTask({
      ...request,
      to,
      onEvent: ({ type }) => void (type === "piece" && counted++),
    });
    // The first attempt stalls, and the second is in the sink with the whole piece.
    await runtime.clock.advanceUntil(inside, 100_000);
    assert.deepEqual(parents.numbers("b:1"), [0]);
    goOn();
    await settle();
    leave();
    await runtime.clock.advanceUntil(download, 100_000);
    assertBytes(to.bytes, small);
    assert.deepEqual(
      to.calls.filter((call) => call.startsWith("commit")),
      ["commit 0"],
    );
    assert.equal(to.calls.at(-1), "finish");
    assert.equal(counted, 1);
  });
});

describe("limits", () => {
  it("a rate limit applies to the task, and its delays are not blamed on the parents", async () => {
    const { fetcher, request, clock } = bench({ "a:1": honest(PIECE), "b:1": honest(PIECE) });
    const to = memorySink();
    const download = fetcher.downloadTask({ ...request, to, rateLimit: 1000, stallTimeout: 2000 });
    const time = await clock.advanceUntil(download, 1_000_000, 100);
    // One second's worth of bytes may pass at once.
    assert.ok(
      time >= content.length - 1000 - 8 * PIECE && time <= content.length + 1000,
      `${time} ms`,
    );
    for (const { errors } of (await download).parents) assert.equal(errors, 0);
  });

  it("delays by a rate limit count against no timeout: each piece is fetched once, however low the limit", async () => {
    const { parents, fetcher, request, clock } = bench({ "a:1": honest(512) });
    const asked: number[] = [];
    const settings = downloaderSettings({}, { ...fakeRuntime(clock), clock });
    // Builds pieces like a downloader does, with the deadlines of a call.
    parents.fetchPiece = async ({ addr, taskId: id, hostId, number, kind }, options) => {
      const scope = new CallScope(clock, { ...options, what: `piece ${number}`, addr });
      const bytes = parents.bytesOf(number);
      const digest = digestOf("crc32", bytes, portableHashers);
      const { offset, length } = pieceExtent(parents.plan, number);
      const metadata = {
        number,
        offset: BigInt(offset),
        length: BigInt(length),
        digest,
        parentId: "",
        trafficType: 1,
        costSeconds: 0n,
        createdAtSeconds: 0n,
      };
      const chunks = chunksOf(bytes, 512);
      let read = false;
      const source = {
        read: async () => {
          // An announcement whose content is not read belongs to a comparison of parents.
          if (!read) asked.push(number);
          read = true;
          return chunks.next().value ?? undefined;
        },
        end: async () => chunks.next().value?.length ?? 0,
        cancel: () => {},
      };
      const pieceRequest = { addr, hostId, taskId: id, number, kind };
      const announcement = validateAnnouncement(pieceRequest, metadata, settings);
      return readVerified(announcement, source, scope, settings.runtime.hashers);
    };
    const to = memorySink();
    const limits = { rateLimit: 100, pieceTimeout: 5000, stallTimeout: 1000 };
    const done = fetcher.downloadTask({ ...request, ...limits, to });
    const time = await clock.advanceUntil(done, 10_000_000, 1000);
    await done;
    assertBytes(to.bytes(), content);
    assert.ok(time > content.length * 9, `${time} ms`);
    assert.deepEqual(
      asked.sort((a, b) => a - b),
      Array.from({ length: 21 }, (_, number) => number),
    );
  });

  it("under a rate limit, no more pieces start than it lets pass within half of the stall timeout", async () => {
    const { parents, fetcher, request, clock } = bench({
      "a:1": honest(PIECE),
      "b:1": honest(PIECE),
    });
    const download = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      rateLimit: 1000,
      stallTimeout: 20_000,
    });
    await clock.advanceUntil(download, 1_000_000, 100);
    await download;
    assert.equal(parents.maxInFlight, 2);
  });

  it("parents slower than the rate limit soon get as many requests as without it", async () => {
    const slow: Behaviour = async function* ({ bytes, signal }) {
      const sent = new Promise<void>((resolve) => void made.clock.setTimer(resolve, 30_000));
      await Promise.race([sent, until(signal)]);
      yield bytes;
    };
    const made: Bench = bench({ "a:1": slow });
    const { parents, fetcher, request, clock } = made;
    const { signal, abort } = controller();
    const download = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      rateLimit: 5000,
      stallTimeout: 1000,
      signal,
    });
    await settle();
    assert.equal(parents.maxInFlight, 1);
    await clock.advance(6500);
    assert.equal(parents.maxInFlight, 7);
    abort();
    await rejectionOf(download);
  });

  it("a rate limit of the downloader applies to all of its tasks together", async () => {
    const { fetcher, request, clock } = bench(
      { "a:1": honest(PIECE) },
      { settings: { rateLimit: 2000 } },
    );
    const downloads = [1, 2].map(() => fetcher.downloadTask({ ...request, to: memorySink() }));
    const time = await clock.advanceUntil(Promise.all(downloads), 1_000_000, 100);
    assert.ok(
      time >= content.length - 2000 - 16 * PIECE && time <= content.length + 1000,
      `${time} ms`,
    );
  });

  it("two tasks share the slots of a parent evenly", async () => {
    const gates: (() => void)[] = [];
    const owners: string[] = [];
    const gated: Behaviour = async function* ({ bytes, signal }) {
      await Promise.race([new Promise<void>((resolve) => gates.push(resolve)), until(signal)]);
      yield bytes;
    };
    const { fetcher, request, parents } = bench(
      { "a:1": gated },
      { settings: { parentConcurrency: 4 } },
    );
    const asked = (): number => parents.asked.length;
    const first = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      onEvent: ({ type }) => void (type === "piece" && owners.push("first")),
    });
    await settle();
    assert.equal(asked(), 4);
    const second = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      onEvent: ({ type }) => void (type === "piece" && owners.push("second")),
    });
    await settle();
    assert.equal(asked(), 4, "the parent is full");
    // Each slot that becomes free goes to the task with fewer slots.
    for (let round = 0; owners.length < 42; round++) {
      assert.ok(round < 1000);
      gates.shift()?.();
      await settle();
      assert.ok((parents.inFlight.get("a:1") ?? 0) <= 4);
    }
    await Promise.all([first, second]);
    const half = owners.slice(4, 34).filter((owner) => owner === "second").length;
    assert.ok(half >= 13 && half <= 17, `${half} of 30`);
  });
});

describe("pause, cancel, close", () => {
  it("a paused task completes its pieces in flight and starts none until it is resumed", async () => {
    const { fetcher, request, parents, clock } = bench({ "a:1": honest() });
    const download = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      concurrentPieceCount: 2,
      onEvent: ({ type }) => void (type === "started" && download.pause()),
    });
    await settle();
    await clock.advance(100_000);
    assert.equal(parents.asked.length, 0);
    assert.equal(download.progress().paused, true);
    download.resume();
    await clock.advanceUntil(download, 10_000);
    assert.equal(download.progress().pieces, 21);
  });

  it("an AbortSignal ends the task with Aborted, and nothing stays in flight", async () => {
    const { fetcher, request, parents, clock } = bench({ "a:1": silent });
    const abort = new AbortController();
    const to = new NotingSink();
    const download = fetcher.downloadTask({ ...request, to, signal: abort.signal });
    await settle();
    assert.equal(parents.inFlight.get("a:1"), 8);
    const reason = new Error("enough");
    abort.abort(reason);
    const error = await assertRejects(download, "Aborted");
    assert.equal(error.cause, reason);
    assert.equal(parents.inFlight.get("a:1"), 0);
    assert.deepEqual(to.calls, ["abort"]);
    assert.equal(clock.pending, 0);
  });

  it("an already aborted signal ends the task before any request", async () => {
    const { fetcher, request, parents } = bench({ "a:1": honest() });
    const download = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      signal: AbortSignal.abort(),
    });
    await assertRejects(download, "Aborted");
    assert.deepEqual(parents.asked, []);
  });

  it("an abort ends the task with Aborted, and closing the downloader ends it with Closed", async () => {
    const { fetcher, request } = bench({ "a:1": silent });
    const { signal, abort } = controller();
    const one = fetcher.downloadTask({ ...request, to: memorySink(), signal });
    const other = fetcher.downloadTask({ ...request, to: memorySink() });
    await settle();
    abort("enough");
    assert.equal((await assertRejects(one, "Aborted")).cause, "enough");
    await fetcher.close();
    await assertRejects(other, "Closed");
    await assertRejects(fetcher.downloadTask({ ...request, to: memorySink() }), "Closed");
  });

  it("exceptions and rejections of listeners are ignored", async () => {
    let calls = 0;
    const throwing = (): never => {
      calls++;
      throw new Error("listener");
    };
    for (const listener of [throwing, async () => throwing()]) {
      const { fetcher, request } = bench({ "a:1": honest() });
      const to = memorySink();
      const options = { ...request, to, onProgress: listener, onEvent: listener };
      assert.equal((await fetcher.downloadTask(options)).bytes, content.length);
    }
    assert.ok(calls > 4);
  });
});

describe("sinks", () => {
  it("the error of a failing sink ends the task, whatever parents there are, and the sink is aborted", async () => {
    const { fetcher, request } = bench({ "a:1": honest(), "b:1": honest() });
    const to = new NotingSink();
    to.onWrite = (number) => {
      if (number === 5) throw new VortexError("StorageFailed", "the disk is full");
    };
    const error = await assertRejects(fetcher.downloadTask({ ...request, to }), "StorageFailed");
    assert.equal(error.message, "the disk is full");
    assert.equal(to.calls.at(-1), "abort");
  });

  it("an error of a sink that is no VortexError becomes StorageFailed", async () => {
    const { fetcher, request } = bench({ "a:1": honest() });
    const to = new NotingSink();
    to.onWrite = () => Promise.reject(new TypeError("oops"));
    await assertRejects(fetcher.downloadTask({ ...request, to }), "StorageFailed");
  });

  it("an exception or a wrong result of a custom sink ends the task with one error", async () => {
    const oops = new TypeError("oops");
    const failed = (): never => {
      throw oops;
    };
    const cases: readonly (readonly [string, ErrorCode, object])[] = [
      ["open throws", "StorageFailed", { open: failed }],
      ["open rejects", "StorageFailed", { open: async () => failed() }],
      ["open has no result", "InvalidArgument", { open: async () => undefined }],
      ["resumed is missing", "InvalidArgument", { session: { resumed: undefined } }],
      ["write throws", "StorageFailed", { session: { write: failed } }],
      ["commit throws", "StorageFailed", { session: { commit: failed } }],
      ["advance throws", "StorageFailed", { session: { advance: failed } }],
      ["read throws", "StorageFailed", { session: { read: failed } }],
      ["read has no bytes", "StorageFailed", { session: { read: async () => new Uint8Array() } }],
      ["read has no result", "StorageFailed", { session: { read: async () => undefined } }],
      [
        "read has too many",
        "StorageFailed",
        { session: { read: async () => new Uint8Array(9e6) } },
      ],
      ["finish throws", "StorageFailed", { session: { finish: failed } }],
      ["finish rejects", "StorageFailed", { session: { finish: async () => failed() } }],
      [
        "abort rejects",
        "StorageFailed",
        { session: { commit: failed, abort: () => Promise.reject(new Error("abort")) } },
      ],
      [
        "abort throws",
        "StorageFailed",
        { session: { finish: failed, abort: () => assert.fail("abort") } },
      ],
    ];
    for (const [what, code, { open, session }] of cases as readonly (readonly [
      string,
      ErrorCode,
      { readonly open?: TaskSink["open"]; readonly session?: Partial<SinkSession> },
    ])[]) {
      const { fetcher, request, settled } = bench({ "a:1": honest() });
      const custom = new NotingSink();
      const to: TaskSink = {
        open: open ?? (async (layout) => ({ ...(await custom.open(layout)), ...session })),
      };
      const digest = digestOf("sha256", content, portableHashers);
      const error = await assertRejects(
        settled(fetcher.downloadTask({ ...request, digest, to })),
        code,
      );
      assert.doesNotMatch(error.message, /abort/, what);
      if (/throws|rejects/.test(what)) assert.equal(error.cause, oops, what);
    }
  });

  it("storage of a random-access sink may throw at once, and return no promise", async () => {
    const oops = new TypeError("oops");
    const failed = (): never => {
      throw oops;
    };
    const bytes = new Uint8Array(content.length);
    const working: RandomAccess = {
      write: async (position, chunk) => bytes.set(chunk, position),
      read: async (position, length) => bytes.subarray(position, position + length),
    };
    const cases: readonly Partial<RandomAccess>[] = [
      { write: failed, abort: failed },
      { write: failed, abort: (() => undefined) as never },
      { write: failed, abort: () => Promise.reject(new Error("abort")) },
      { read: failed },
      { close: failed },
    ];
    for (const storage of cases) {
      const { fetcher, request, settled } = bench({ "a:1": honest() });
      const to = randomAccessSink({ ...working, ...storage });
      const digest = digestOf("sha256", content, portableHashers);
      const error = await assertRejects(
        settled(fetcher.downloadTask({ ...request, digest, to })),
        "StorageFailed",
      );
      assert.equal(error.cause, oops);
    }
  });

  it("resumed pieces are verified, then counted if intact, or fetched again", async () => {
    const { fetcher, request, parents, settled } = bench({ "a:1": honest() });
    const to = new NotingSink();
    to.bytes = content.slice();
    to.bytes[3 * PIECE + 5] = (to.bytes[3 * PIECE + 5] ?? 0) ^ 1;
    to.found = [2, 3, 4, 20, 77].map((number) => {
      const bytes = number === 77 ? new Uint8Array(1) : parents.bytesOf(number);
      const digest = digestOf("crc32", bytes, portableHashers);
      return { number, digest, crc32: Number(digest.slice(6)) };
    });
    const events: TaskEvent[] = [];
    const digest = digestOf("sha256", content, portableHashers);
    const download = fetcher.downloadTask({
      ...request,
      digest,
      to,
      onEvent: (event) => events.push(event),
    });
    const report = await settled(download);
    assertBytes(to.bytes, content);
    assert.deepEqual([report.resumedPieces, report.resumedBytes], [3, 2 * PIECE + 123]);
    const asked = parents.numbers();
    assert.ok([2, 4, 20].every((number) => !asked.includes(number)));
    assert.deepEqual(
      events.filter(({ type }) => type === "piece-damaged"),
      [{ type: "piece-damaged", number: 3 }],
    );
  });

  it("the task fails only after the resumed pieces are verified, if the last parent is excluded meanwhile", async () => {
    const { fetcher, request, parents, settled } = bench({ "a:1": corrupt });
    const to = new NotingSink();
    to.bytes = content.slice();
    const digest = digestOf("crc32", parents.bytesOf(2), portableHashers);
    to.found = [{ number: 2, digest, crc32: Number(digest.slice(6)) }];
    let resolve = (): void => {};
    const exclusion = new Promise<void>((each) => {
      resolve = each;
    });
    to.onRead = () => exclusion;
    const onEvent = ({ type }: TaskEvent): void => {
      if (type === "parent-excluded") resolve();
    };
    await assertRejects(
      settled(fetcher.downloadTask({ ...request, to, onEvent })),
      "DigestMismatch",
    );
  });

  it("advance is called in ascending order, and finish comes last", async () => {
    const { fetcher, request, settled } = bench({ "a:1": honest(), "b:1": honest() });
    const to = new NotingSink();
    await settled(fetcher.downloadTask({ ...request, to }));
    const advances = to.calls
      .filter((call) => call.startsWith("advance"))
      .map((call) => Number(call.split(" ")[1]));
    assert.deepEqual(
      advances,
      [...advances].sort((a, b) => a - b),
    );
    assert.equal(advances.at(-1), content.length);
    assert.equal(to.calls.at(-1), "finish");
  });

  it("a memory sink rejects content beyond its maximum length", async () => {
    const { fetcher, request } = bench({ "a:1": honest() });
    const to = memorySink({ maxLength: 1000 });
    const error = await assertRejects(fetcher.downloadTask({ ...request, to }), "StorageFailed");
    assert.equal(error.kind, "local");
    assert.match(error.message, /expected at most 1000 bytes, got \d+; raise maxLength/);
    assertThrows(() => memorySink().bytes(), "InvalidArgument");
  });
});

describe("memory", () => {
  it("a slow sink delays the parents: at most a chunk of each piece in flight is buffered, whatever the task's length", async () => {
    const CHUNK = 512;
    let handedOut = 0;
    let written = 0;
    let most = 0;
    const counting: Behaviour = function* ({ bytes }) {
      for (let at = 0; at < bytes.length; at += CHUNK) {
        const chunk = bytes.subarray(at, at + CHUNK);
        handedOut += chunk.length;
        most = Math.max(most, handedOut - written);
        yield chunk;
      }
    };
    const { fetcher, request, settled } = bench(
      { "a:1": counting, "b:1": counting },
      { content: seededBytes(9, 200 * PIECE) },
    );
    const sink: TaskSink = {
      open: async () => ({
        resumed: [],
        write: async (_number, _position, chunk) => {
          await settle();
          written += chunk.length;
        },
        commit: async () => {},
        read: () => Promise.reject(new Error("nothing is read without a digest")),
        advance: async () => {},
        finish: async () => {},
        abort: async () => {},
      }),
    };
    await settled(fetcher.downloadTask({ ...request, to: sink, concurrentPieceCount: 8 }));
    assert.equal(written, 200 * PIECE);
    // One chunk on its way into the sink, one that the test parent holds for its digest, and one
    // that it creates.
    assert.ok(most <= 8 * 3 * CHUNK, `${most} bytes were held`);
  });
});

describe("a task as a stream", () => {
  it("delivers the content in order", async () => {
    const { fetcher, request } = bench({ "a:1": honest(1000), "b:1": honest(700) });
    const stream = fetcher.streamTask(request);
    const chunks: Uint8Array[] = [];
    for await (const chunk of stream.content) chunks.push(chunk);
    assertBytes(joined(chunks), content);
    assert.equal((await stream.report).bytes, content.length);
  });

  it("does not read further ahead of its reader than the memory limit", async () => {
    const LARGE = 2 * 1024 * 1024;
    const bytes = seededBytes(5, 80 * LARGE);
    const parents = new FakeParents(bytes, LARGE, { "a:1": honest(LARGE) });
    const { fetcher, request } = fetcherOf(parents, ["a:1"]);
    const stream = fetcher.streamTask(request);
    const reader = stream.content.getReader();
    let taken = 0;
    let most = 0;
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      taken += next.value.length;
      if (taken % (8 * LARGE) < next.value.length) await settle();
      most = Math.max(most, stream.progress().bytes - taken);
    }
    assert.equal(taken, bytes.length);
    // 32 MiB ahead, plus the piece that the reader is in.
    assert.ok(most <= 32 * 1024 * 1024 + LARGE, `${most} bytes ahead`);
    assert.ok(most > 8 * 1024 * 1024, `only ${most} bytes ahead`);
  });

  it("uses memory for the pieces in flight only, however many follow", async () => {
    const small = seededBytes(6, 400 * PIECE);
    const parents = new FakeParents(small, PIECE, { "a:1": honest() }, { readsInto: true });
    const { fetcher, request } = fetcherOf(
      parents,
      ["a:1"],
      taskSettings({ concurrentPieceCount: 4 }),
    );
    assertBytes(await fetcher.streamTask(request).bytes(), small);
    assert.ok(parents.memory.size <= 4, `${parents.memory.size} buffers for 400 pieces`);
  });

  it("holds its last chunk back until the whole is verified", async () => {
    const { fetcher, request } = bench({ "a:1": honest() });
    const digest = digestOf("sha256", content.subarray(1), portableHashers);
    const stream = fetcher.streamTask({ ...request, digest });
    let taken = 0;
    const error = await rejectionOf(
      (async () => {
        for await (const chunk of stream.content) taken += chunk.length;
      })(),
    );
    assert.equal(error.code, "DigestMismatch");
    assert.ok(taken < content.length, "all bytes were handed out");
    await assertRejects(stream.report, "DigestMismatch");
  });

  it("errors with the error of the download, also before the first chunk", async () => {
    const { fetcher, request, settled } = bench({ "a:1": failing("RemoteUnimplemented") });
    const stream = fetcher.streamTask(request);
    await assertRejects(settled(stream.bytes()), "RemoteUnimplemented");
  });

  it("ends the download with Aborted if its reader cancels it", async () => {
    const { fetcher, request, parents } = bench({ "a:1": honest() });
    const stream = fetcher.streamTask(request);
    const reader = stream.content.getReader();
    await reader.read();
    await reader.cancel("enough");
    assert.equal((await assertRejects(stream.report, "Aborted")).cause, "enough");
    assert.equal(parents.inFlight.get("a:1"), 0);
  });

  it("is empty for an empty task", async () => {
    const { fetcher, request } = bench({ "a:1": honest() }, { content: new Uint8Array(0) });
    assertBytes(await fetcher.streamTask(request).bytes(), new Uint8Array(0));
  });
});

describe("progress", () => {
  it("counts bytes and pieces up to the end, and is reported at most ten times a second", async () => {
    const { fetcher, request, settled, clock } = bench({ "a:1": honest(512) });
    const reports: [at: number, bytes: number][] = [];
    const download = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      rateLimit: 20_000,
      onProgress: ({ bytes }) => reports.push([clock.now(), bytes]),
    });
    const before = download.progress();
    assert.deepEqual([before.bytes, before.totalBytes, before.timeLeft], [0, undefined, undefined]);
    await settled(download);
    const after = download.progress();
    assert.deepEqual(
      [after.bytes, after.totalBytes, after.pieces, after.timeLeft],
      [content.length, content.length, 21, 0],
    );
    assert.equal(reports.at(-1)?.[1], content.length);
    const gaps = reports.slice(1, -1).map(([at], index) => at - (reports[index]?.[0] ?? 0));
    assert.ok(gaps.every((gap) => gap >= 100));
  });

  it("has the rate of the last seconds, and the remaining time follows from it", async () => {
    const { fetcher, request, clock } = bench({ "a:1": honest(500) });
    const { signal, abort } = controller();
    const download = fetcher.downloadTask({
      ...request,
      to: memorySink(),
      rateLimit: 4000,
      signal,
    });
    for (let second = 0; second < 12; second++) await clock.advance(1000);
    const { rate, timeLeft, bytes } = download.progress();
    assert.ok(rate > 3000 && rate < 5000, `${rate} bytes a second`);
    assert.ok(
      timeLeft !== undefined && Math.abs(timeLeft - ((content.length - bytes) * 1000) / rate) < 1,
    );
    abort();
    await rejectionOf(download);
  });
});

/** Directory with configurable answers. */
class FakeDirectory implements TaskDirectory {
  readonly stats = new Map<string, TaskOutline | VortexError>();
  readonly pieces = new Map<string, AsyncIterable<PieceLocation> | VortexError>();
  readonly synced: string[] = [];
  onAsked: (what: "stat" | "sync") => void = () => {};

  async stat(addr: string): Promise<TaskOutline> {
    this.onAsked("stat");
    const answer = this.stats.get(addr) ?? new VortexError("NotFound", "no such task");
    if (answer instanceof VortexError) throw answer;
    return answer;
  }

  async *sync(addr: string): AsyncIterable<PieceLocation> {
    this.onAsked("sync");
    this.synced.push(addr);
    const answer = this.pieces.get(addr);
    if (answer instanceof VortexError) throw answer;
    if (answer !== undefined) yield* answer;
  }
}

describe("parents with a directory", () => {
  const outline: TaskOutline = {
    contentLength: content.length,
    pieceLength: PIECE,
    pieceCount: 21,
  };
  const located = (number: number): PieceLocation => ({
    number,
    offset: number * PIECE,
    length: Math.min(PIECE, content.length - number * PIECE),
  });

  async function* announcing(
    numbers: readonly number[],
    then?: Promise<unknown>,
  ): AsyncGenerator<PieceLocation> {
    for (const number of numbers) yield located(number);
    await then;
  }

  const all = Array.from({ length: 21 }, (_, number) => number);

  function asking(
    behaviours: Readonly<Record<string, Behaviour>>,
    settings: Partial<TaskSettings> = {},
  ): Bench & { directory: FakeDirectory } {
    const directory = new FakeDirectory();
    const made = bench(behaviours, { directory, settings });
    const { taskId: id, hostId, parents } = made.request;
    return { ...made, directory, request: { taskId: id, hostId, parents } };
  }

  it("report the lengths at dfdaemon's port of the same host, and are asked only for the pieces they have", async () => {
    const { fetcher, request, settled, parents, directory } = asking({
      "a:1": honest(),
      "b:1": honest(),
    });
    for (const addr of ["a:4000", "b:4000"]) directory.stats.set(addr, outline);
    directory.pieces.set("a:4000", announcing(all.filter((number) => number % 3 === 0)));
    directory.pieces.set("b:4000", announcing(all.filter((number) => number % 3 !== 0)));
    const to = memorySink();
    await settled(fetcher.downloadTask({ ...request, to }));
    assertBytes(to.bytes(), content);
    assert.ok(parents.numbers("a:1").every((number) => number % 3 === 0));
    assert.ok(parents.numbers("b:1").every((number) => number % 3 !== 0));
  });

  it("are asked within the operation of the task", async () => {
    let inside = false;
    const operation: Operation = {
      end: () => {},
      run(work) {
        inside = true;
        try {
          return work();
        } finally {
          inside = false;
        }
      },
    };
    const { fetcher, request, settled, directory } = asking(
      { "a:1": honest() },
      { telemetry: { begin: () => operation } },
    );
    directory.stats.set("a:4000", outline);
    directory.pieces.set("a:4000", announcing(all));
    const asked: [what: string, inside: boolean][] = [];
    directory.onAsked = (what) => asked.push([what, inside]);
    await settled(fetcher.downloadTask({ ...request, to: memorySink() }));
    assert.deepEqual(asked, [
      ["stat", true],
      ["sync", true],
    ]);
  });

  it("are asked for pieces at the addresses they announce, if the caller gives none", async () => {
    const { fetcher, request, settled, directory } = asking({ "data:9": honest() });
    directory.stats.set("api:1", outline);
    const moved = (async function* () {
      for (const number of all) yield { ...located(number), tcpAddr: "data:9" };
    })();
    directory.pieces.set("api:1", moved);
    const to = memorySink();
    await settled(fetcher.downloadTask({ ...request, parents: [{ apiAddr: "api:1" }], to }));
    assertBytes(to.bytes(), content);
  });

  it("provide the digest that is verified, if the first one names it", async () => {
    const { fetcher, request, settled, directory } = asking({ "a:1": honest() });
    directory.stats.set("a:4000", { ...outline, digest: `sha256:${"0".repeat(64)}` });
    directory.pieces.set("a:4000", announcing(all));
    await assertRejects(
      settled(fetcher.downloadTask({ ...request, to: memorySink() })),
      "DigestMismatch",
    );
  });

  it("are excluded if their content differs", async () => {
    const { fetcher, request, settled, parents, directory } = asking({
      "a:1": honest(),
      "b:1": honest(),
    });
    directory.stats.set("a:4000", outline);
    directory.stats.set("b:4000", { contentLength: 5, pieceLength: 5, pieceCount: 1 });
    directory.pieces.set("a:4000", announcing(all));
    directory.pieces.set("b:4000", announcing(all));
    const download = fetcher.downloadTask({ ...request, to: memorySink() });
    const { parents: progress } = await settled(download);
    assert.deepEqual(
      [progress[1]?.state, progress[1]?.reasons[0]?.code],
      ["excluded", "PieceMismatch"],
    );
    assert.deepEqual(parents.numbers("b:1"), []);
  });

  for (const [what, answer, code] of [
    [
      "pieces that are too long",
      { contentLength: 2 ** 40, pieceLength: 2 ** 30, pieceCount: 1024 },
      "LimitExceeded",
    ],
    ["another digest than the caller", { digest: `sha256:${"0".repeat(64)}` }, "DigestMismatch"],
    [
      "a content that ends before the range",
      { contentLength: 5, pieceLength: 5, pieceCount: 1 },
      "InvalidArgument",
    ],
  ] as const) {
    it(`are excluded for ${what}, even if first to answer, and another one delivers the task`, async () => {
      const { fetcher, request, settled, directory } = asking({ "a:1": honest(), "b:1": honest() });
      directory.stats.set("a:4000", { ...outline, ...answer });
      directory.stats.set("b:4000", outline);
      for (const addr of ["a:4000", "b:4000"]) directory.pieces.set(addr, announcing(all));
      const to = memorySink();
      const digest = digestOf("sha256", content, portableHashers);
      const wanted =
        code === "InvalidArgument" ? { range: { start: PIECE, end: 2 * PIECE } } : { digest };
      const { parents: seen } = await settled(fetcher.downloadTask({ ...request, ...wanted, to }));
      assertBytes(
        to.bytes(),
        code === "InvalidArgument" ? content.subarray(PIECE, 2 * PIECE) : content,
      );
      assert.deepEqual([seen[0]?.state, seen[0]?.reasons[0]?.code], ["excluded", code]);
    });
  }

  it("that report lengths with another digest are not said to report none", async () => {
    const { fetcher, request, directory } = asking({ "a:1": honest() });
    directory.stats.set("a:4000", { ...outline, digest: `sha256:${"0".repeat(64)}` });
    const digest = digestOf("sha256", content, portableHashers);
    const failure = await assertRejects(
      fetcher.downloadTask({ ...request, digest, to: memorySink() }),
      "DigestMismatch",
    );
    assert.match(failure.message, /^task [0-9a-f]{64}: .*announced digest of the task/);
  });

  it("are not excluded for a digest that differs in spelling or algorithm only", async () => {
    const { fetcher, request, settled, directory } = asking({
      "a:1": honest(),
      "b:1": honest(),
      "c:1": honest(),
    });
    const digest = digestOf("sha256", content, portableHashers);
    directory.stats.set("a:4000", { ...outline, digest });
    directory.stats.set("b:4000", {
      ...outline,
      digest: `sha256:${digest.slice(7).toUpperCase()}`,
    });
    directory.stats.set("c:4000", {
      ...outline,
      digest: digestOf("crc32", content, portableHashers),
    });
    for (const addr of ["a:4000", "b:4000", "c:4000"]) directory.pieces.set(addr, announcing(all));
    const { parents: seen } = await settled(fetcher.downloadTask({ ...request, to: memorySink() }));
    assert.deepEqual(
      seen.map(({ state }) => state),
      ["active", "active", "active"],
    );
  });

  it("are excluded for nonsensical announcements", async () => {
    const { fetcher, request, settled, directory } = asking({ "a:1": honest(), "b:1": honest() });
    for (const addr of ["a:4000", "b:4000"]) directory.stats.set(addr, outline);
    directory.pieces.set("a:4000", announcing(all));
    const nonsense = (async function* () {
      yield { number: 3, offset: 1, length: PIECE };
    })();
    directory.pieces.set("b:4000", nonsense);
    const { parents: progress } = await settled(
      fetcher.downloadTask({ ...request, to: memorySink() }),
    );
    assert.equal(progress[1]?.state, "excluded");
  });

  it("are assumed to have all pieces if they serve pieces without announcing them", async () => {
    const { fetcher, request, settled, directory } = asking({ "a:1": honest(), "b:1": honest() });
    directory.stats.set("a:4000", outline);
    directory.stats.set("b:4000", new VortexError("RemoteUnimplemented", "no such call"));
    directory.pieces.set("a:4000", new VortexError("RemoteUnimplemented", "no such call"));
    const to = memorySink();
    await settled(fetcher.downloadTask({ ...request, to }));
    assertBytes(to.bytes(), content);
  });

  it("are each named in the error if none reports the lengths", async () => {
    const { fetcher, request, settled, directory } = asking({ "a:1": honest(), "b:1": honest() });
    directory.stats.set("b:4000", new VortexError("ConnectionRefused", "nobody there"));
    const error = await rejectionOf(
      settled(fetcher.downloadTask({ ...request, to: memorySink() })),
    );
    assert.equal(error.code, "Unreachable");
    assert.match(error.message, /a:1: NotFound.*b:1: ConnectionRefused/);
  });

  for (const [name, answer] of [
    ["no piece length", { contentLength: 10, pieceLength: 0, pieceCount: 1 }],
    ["a wrong number of pieces", { contentLength: 10, pieceLength: 5, pieceCount: 3 }],
    [
      "more pieces than there may be",
      { contentLength: 2_000_000, pieceLength: 1, pieceCount: 2_000_000 },
    ],
    ["a length beyond 2^53", { contentLength: 2 ** 60, pieceLength: 2 ** 59, pieceCount: 2 }],
    [
      "pieces that are too long",
      { contentLength: 2 ** 40, pieceLength: 2 ** 30, pieceCount: 1024 },
    ],
  ] as const) {
    it(`are rejected for ${name}, before anything is allocated`, async () => {
      const { fetcher, request, settled, directory } = asking({ "a:1": honest() });
      directory.stats.set("a:4000", answer);
      const error = await rejectionOf(
        settled(fetcher.downloadTask({ ...request, to: memorySink() })),
      );
      assert.ok(["ProtocolViolation", "LimitExceeded"].includes(error.code), error.code);
    });
  }

  it("are asked again if their announcements break off", async () => {
    const { fetcher, request, settled, directory } = asking({ "a:1": honest() });
    directory.stats.set("a:4000", outline);
    const breaking = (async function* () {
      yield located(0);
      directory.pieces.set("a:4000", announcing(all));
      throw new VortexError("ConnectionLost", "lost");
    })();
    directory.pieces.set("a:4000", breaking);
    const to = memorySink();
    await settled(fetcher.downloadTask({ ...request, to }));
    assertBytes(to.bytes(), content);
    assert.equal(directory.synced.length, 2);
  });
});

describe("serving pieces during a download", () => {
  it("serves pieces as they arrive, and watchers receive each once", async () => {
    const gates: (() => void)[] = [];
    const gated: Behaviour = async function* ({ bytes, signal }) {
      await Promise.race([new Promise<void>((resolve) => gates.push(resolve)), until(signal)]);
      yield bytes;
    };
    const { fetcher, request, parents } = bench({ "a:1": gated });
    const download = fetcher.downloadTask({ ...request, to: memorySink() });
    await settle();
    const { store } = download;
    const task = await store.getTask(taskId);
    assert.deepEqual([task?.complete, [...(task?.pieces() ?? [])].length], [false, 0]);
    const heard: number[] = [];
    const watching = (async () => {
      for await (const { number } of task?.watch?.({ signal: new AbortController().signal }) ?? [])
        heard.push(number);
    })();
    gates.shift()?.();
    await settle();
    assert.deepEqual(heard, [0]);
    const piece = await store.getPiece({ taskId, number: 0, kind: "standard" });
    const chunks: Uint8Array[] = [];
    for await (const chunk of piece?.read() ?? []) chunks.push(chunk);
    assertBytes(joined(chunks), parents.bytesOf(0));
    assert.equal(piece?.metadata.digest, digestOf("crc32", parents.bytesOf(0), portableHashers));
    assert.equal(await store.getPiece({ taskId, number: 1, kind: "standard" }), undefined);
    assert.equal(await store.getPiece({ taskId, number: 0, kind: "cache" }), undefined);
    while (heard.length < 21) {
      gates.shift()?.();
      await settle();
    }
    await download;
    await watching;
    assert.equal(new Set(heard).size, 21);
    assert.equal((await store.getTask(taskId))?.complete, true);
    const last = await store.getPiece({ taskId, number: 20, kind: "standard" });
    const part: Uint8Array[] = [];
    for await (const chunk of last?.read({ start: 100, end: 110 }) ?? []) part.push(chunk);
    assertBytes(joined(part), parents.bytesOf(20).subarray(100, 110));
  });

  it("a request for the task waits until the lengths are known, the download fails or it is aborted", async () => {
    const outline = { contentLength: content.length, pieceLength: PIECE, pieceCount: 21 };
    let answer = (_: TaskOutline): void => {};
    const directory: TaskDirectory = {
      stat: (_addr, _taskId, { signal }) =>
        Promise.race([
          until(signal),
          new Promise<TaskOutline>((resolve) => {
            answer = resolve;
          }),
        ]),
      async *sync() {},
    };
    const { fetcher } = bench({ "a:1": honest() }, { directory });
    const start = (signal: AbortSignal): TaskDownload => {
      const parents = [{ addr: "a:1", apiAddr: "a:2" }];
      const download = fetcher.downloadTask({ taskId, parents, to: memorySink(), signal });
      download.catch(() => {});
      return download;
    };
    const first = controller();
    const { store } = start(first.signal);
    const waiting = store.getTask(taskId);
    assert.equal(await store.getTask("b2".repeat(32)), undefined);
    const impatient = controller();
    const aborted = store.getTask(taskId, { signal: impatient.signal });
    impatient.abort();
    await assertRejects(aborted, "Aborted");
    await settle();
    answer(outline);
    assert.equal((await waiting)?.contentLength, content.length);
    first.abort();

    const second = controller();
    const failing = start(second.signal).store.getTask(taskId);
    second.abort();
    assert.equal(await failing, undefined);
  });

  it("does not serve pieces that the range covers only partly", async () => {
    const { fetch } = bench({ "a:1": honest() });
    const { download } = await fetch({ range: { start: 100, end: 3 * PIECE } });
    assert.equal(await download.store.getPiece({ taskId, number: 0, kind: "standard" }), undefined);
    assert.ok(await download.store.getPiece({ taskId, number: 1, kind: "standard" }));
    assert.equal((await download.store.getTask(taskId))?.complete, false);
  });

  it("serves nothing after a failed download, and its watchers receive the error", async () => {
    const { fetcher, request } = bench({ "a:1": silent });
    const { signal, abort } = controller();
    const download = fetcher.downloadTask({ ...request, to: memorySink(), signal });
    download.catch(() => {});
    await settle();
    const task = await download.store.getTask(taskId);
    const watching = (async () => {
      for await (const _ of task?.watch?.({ signal: new AbortController().signal }) ?? []);
    })();
    watching.catch(() => {});
    await settle();
    abort();
    await assertRejects(watching, "Aborted");
    assert.equal(await download.store.getTask(taskId), undefined);
  });
});

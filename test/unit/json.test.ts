/** Errors, events, progress, reports and telemetry: `JSON.stringify` accepts each of them. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { AutoDownloader, type ProtocolEvent } from "../../src/client/auto/downloader.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { TcpDownloader } from "../../src/client/vortex/downloader.ts";
import { digestOf } from "../../src/digest/digest.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import { errorCodes, VortexError } from "../../src/errors.ts";
import type { Piece } from "../../src/piece.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { TcpServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { TaskFetcher } from "../../src/task/fetcher.ts";
import { memorySink } from "../../src/task/memory-sink.ts";
import type { TaskSink } from "../../src/task/sink.ts";
import type { SourceOptions, SourceRequest } from "../../src/task/source.ts";
import type { TaskEvent, TaskProgress, TaskReport } from "../../src/task/task.ts";
import type { OperationResult, OperationStart, Telemetry } from "../../src/telemetry.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import { stockPorts } from "../../src/transport/peer-address.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { fakeRuntime } from "../support/fake-clock.ts";
import { seededBytes } from "../support/random.ts";
import {
  type Behaviour,
  corrupt,
  FakeParents,
  failing,
  holding,
  honest,
  stalling,
  taskId,
  taskSettings,
} from "../support/task-parents.ts";

const PIECE = 4096;
const content = seededBytes(7, 20 * PIECE + 123);
const digest = digestOf("sha256", content, portableHashers);

/** Types of {@link TaskEvent}; the compiler rejects a list that lacks one. */
const eventTypes = {
  started: true,
  piece: true,
  "piece-damaged": true,
  hedged: true,
  "piece-failed": true,
  "protocol-excluded": true,
  restarted: true,
  "parent-excluded": true,
  "parent-restored": true,
} satisfies Record<TaskEvent["type"], true>;

/** Parents that serve each piece over two protocols. */
class TwoProtocols extends FakeParents {
  protocolsOf(): readonly Protocol[] {
    return ["quic", "tcp"];
  }

  override fetchPiece(request: SourceRequest, options: SourceOptions): Promise<Piece> {
    return super.fetchPiece({ ...request, addr: `${request.addr} ${request.protocol}` }, options);
  }
}

/** Everything that a program can observe. */
class Observed implements Telemetry {
  readonly events: TaskEvent[] = [];
  readonly progress: TaskProgress[] = [];
  readonly reports: TaskReport[] = [];
  readonly starts: OperationStart[] = [];
  readonly results: OperationResult[] = [];
  readonly errors: VortexError[] = [];

  begin(start: OperationStart): ReturnType<Telemetry["begin"]> {
    this.starts.push(start);
    return { end: (result) => void this.results.push(result), run: (work) => work() };
  }

  /** Downloads the content from parents with these behaviours. */
  async download(
    behaviours: Readonly<Record<string, Behaviour>>,
    { addrs = Object.keys(behaviours), to = memorySink() as TaskSink, whole = false } = {},
  ): Promise<void> {
    const runtime = fakeRuntime();
    const Parents = addrs[0] === "two:1" ? TwoProtocols : FakeParents;
    const source = new Parents(content, PIECE, behaviours);
    const fetcher = new TaskFetcher(
      source,
      taskSettings({ patience: 120_000, telemetry: this }, runtime),
    );
    const done = fetcher.downloadTask({
      taskId,
      hostId: "h",
      parents: addrs,
      contentLength: content.length,
      pieceLength: PIECE,
      ...(whole && { digest }),
      to,
      onEvent: (event) => this.events.push(event),
      onProgress: (progress) => this.progress.push(progress),
    });
    await runtime.clock.advanceUntil(done, 3_600_000);
    await done.then(
      (report) => this.reports.push(report),
      (error: VortexError) => this.errors.push(error),
    );
  }
}

/** Sink with pieces of an earlier download, one of them with other bytes than its digest says. */
function damagedSink(): TaskSink {
  return {
    async open(layout) {
      const session = await memorySink().open(layout, {
        signal: new AbortController().signal,
        digest: undefined,
        onLimitIncrease: () => {},
        onFailure: () => {},
      });
      return Object.assign(session, {
        resumed: [{ number: 3, digest: "crc32:1", crc32: 1 }],
        read: async (_number: number, _position: number, length: number) => new Uint8Array(length),
      });
    },
  };
}

describe("JSON", () => {
  it("of every event, progress, report and operation of a task is its fields", async () => {
    const observed = new Observed();
    await observed.download({
      "good:1": honest(),
      "stalls:1": stalling,
      "lies:1": (request) => (request.number % 5 === 0 ? corrupt(request) : honest()(request)),
      "gone:1": failing("ConnectionRefused"),
    });
    await observed.download(
      { "liar:1": holding(seededBytes(8, content.length), PIECE), "a:1": honest() },
      { whole: true },
    );
    await observed.download({ "a:1": honest() }, { to: damagedSink() });
    let refused = 0;
    const late: Behaviour = (request) =>
      ++refused <= 20 ? new VortexError("ConnectionRefused", "down") : honest()(request);
    await observed.download({ "a:1": late });
    await observed.download(
      { "two:1 quic": failing("ProtocolNotSupported"), "two:1 tcp": honest() },
      { addrs: ["two:1"] },
    );
    await observed.download({ "a:1": corrupt, "b:1": failing("RemoteUnimplemented") });

    assert.deepEqual(
      [...new Set(observed.events.map(({ type }) => type))].sort(),
      Object.keys(eventTypes).sort(),
    );
    assert.ok(observed.errors.length > 0 && observed.reports.length > 0);
    assert.ok(observed.starts.length > 0 && observed.results.some(({ error }) => error));
    for (const values of Object.values(observed))
      for (const value of values as object[]) {
        const parsed: unknown = JSON.parse(JSON.stringify(value));
        // Without the bigints, functions and undefined values that JSON does not have.
        assert.deepEqual(Object.keys(parsed as object), definedKeys(value));
      }
    const [error] = observed.errors;
    const { cause } = JSON.parse(JSON.stringify(error));
    assert.deepEqual(
      cause.errors
        .map(({ code, addr }: { code: string; addr: string }) => `${addr} ${code}`)
        .sort(),
      ["a:1 DigestMismatch", "b:1 RemoteUnimplemented"],
    );
  });

  it("of a protocol event and of the operations at both ends of a request is their fields", async () => {
    const observed = new Observed();
    const chosen: ProtocolEvent[] = [];
    const transport = new MemoryTransport("tcp");
    const store = new MemoryPieceStore();
    store.putTask(taskId, content, { pieceLength: PIECE });
    const runtime = fakeRuntime();
    const server = await TcpServer.listen(
      transport,
      { host: "a", port: 1 },
      store,
      runtime,
      serverSettings({ telemetry: observed }, runtime),
    );
    const settings = downloaderSettings({ telemetry: observed }, runtime);
    const downloader = new AutoDownloader(
      {
        candidates: ["tcp"],
        excluded: [],
        quicRestriction: undefined,
        downloader: (_protocol, own) => new TcpDownloader(async () => transport, own),
        ports: stockPorts,
        trust: "unnamed",
        delay: 250,
        expiry: 600_000,
        onProtocol: (event) => chosen.push(event),
      },
      settings,
    );
    const addr = `a:${server.address.port}`;
    const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 3 });
    await piece.bytes();
    await rejectionOf(downloader.downloadPiece({ addr, hostId: "h", taskId, number: 99 }));
    await downloader.close();
    await server.close();
    assert.equal(chosen.length, 1);
    assert.deepEqual(
      new Set(observed.starts.map(({ role }) => role)),
      new Set(["client", "server"]),
    );
    for (const value of [...chosen, ...observed.starts, ...observed.results])
      assert.deepEqual(Object.keys(JSON.parse(JSON.stringify(value))), definedKeys(value));
  });

  it("of an error of each code has its code, kind and name", () => {
    for (const code of errorCodes) {
      const error = new VortexError(code, "x");
      const { name, kind } = error;
      assert.deepEqual(JSON.parse(JSON.stringify(error)), { name, code, kind, message: "x" });
    }
  });

  it("of an error has its address, and its causes as nested objects", () => {
    const native = Object.assign(new Error("refused"), { code: "ECONNREFUSED", errno: -111 });
    const cause = new VortexError("ConnectionRefused", "no", { cause: native, addr: "b:1" });
    const error = new VortexError("Unreachable", "none", { cause, addr: "a:1" });
    assert.deepEqual(JSON.parse(JSON.stringify({ error })), {
      error: {
        name: "VortexError",
        code: "Unreachable",
        kind: "transport",
        message: "none",
        addr: "a:1",
        cause: {
          name: "VortexError",
          code: "ConnectionRefused",
          kind: "transport",
          message: "no",
          addr: "b:1",
          cause: { name: "Error", code: "ECONNREFUSED", message: "refused" },
        },
      },
    });
  });

  it("of an error with any cause never throws", () => {
    const cyclic = new Error("cycle");
    cyclic.cause = new VortexError("Internal", "x", { cause: { deeper: [cyclic] } });
    const hostile = Object.defineProperty(new Error("x"), "message", {
      get() {
        throw new Error("no");
      },
    });
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    const cases: readonly (readonly [unknown, unknown])[] = [
      [12n, "12"],
      [
        { length: 2n ** 64n, alert: 42 },
        { length: "18446744073709551616", alert: 42 },
      ],
      ["text", "text"],
      [null, null],
      [Symbol("s"), "Symbol(s)"],
      [new Date(Number.NaN), "Invalid Date"],
      [hostile, { name: "Error", message: "[unreadable]" }],
      [proxy, "[unreadable]"],
      [
        cyclic,
        {
          name: "Error",
          message: "cycle",
          cause: {
            name: "VortexError",
            code: "Internal",
            kind: "local",
            message: "x",
            cause: { deeper: ["[cycle]"] },
          },
        },
      ],
      [
        new AggregateError([new TypeError("a"), 1n], "both"),
        {
          name: "AggregateError",
          message: "both",
          errors: [{ name: "TypeError", message: "a" }, "1"],
        },
      ],
    ];
    for (const [cause, expected] of cases) {
      const json = JSON.stringify(new VortexError("Internal", "x", { cause }));
      assert.deepEqual(JSON.parse(json).cause, expected);
    }
  });

  it("of an error is bounded in depth and size", () => {
    let deep = new Error("0");
    for (let level = 1; level < 20; level++) deep = new Error(`${level}`, { cause: deep });
    const json = JSON.stringify(new VortexError("Internal", "x", { cause: deep }));
    assert.equal(json.match(/"cause"/g)?.length, 9);
    assert.match(json, /"cause":"\[omitted\]"/);
    let wide: unknown = new Error("leaf");
    for (let level = 0; level < 7; level++)
      wide = new AggregateError(new Array(20).fill(wide), "wide");
    const bounded = JSON.stringify(new VortexError("Internal", "x", { cause: wide }));
    assert.ok(bounded.length < 200_000, `${bounded.length}`);
  });

  it("of an error is bounded in the number of values and the length of texts", () => {
    const sparse: unknown[] = [];
    sparse.length = 50_000_000;
    const huge: readonly unknown[] = [
      new Array(5_000_000).fill(1),
      sparse,
      Object.fromEntries(Array.from({ length: 50_000 }, (_, index) => [`name ${index}`, index])),
      "x".repeat(20_000_000),
      { text: ["x".repeat(20_000_000), "y".repeat(20_000_000)] },
      new Uint8Array(50_000_000),
      2n ** 1_000_000n,
      new Error("x".repeat(20_000_000)),
    ];
    for (const cause of huge) {
      const json = JSON.stringify(new VortexError("Internal", "x", { cause }));
      assert.ok(json.length < 1_200_000, `${json.length} for ${typeof cause}`);
      assert.equal(JSON.parse(json).message, "x");
    }
    const few = JSON.stringify(new VortexError("Internal", "x", { cause: [1, "two", [3]] }));
    assert.deepEqual(JSON.parse(few).cause, [1, "two", [3]]);
  });

  it("of an error of a request is readable text in one line", async () => {
    const downloader = new TcpDownloader(
      async () => new MemoryTransport("tcp"),
      downloaderSettings({}, fakeRuntime()),
    );
    const request = { addr: "a:1", hostId: "h", taskId, number: 0 };
    const error = await assertRejects(downloader.downloadPiece(request), "ConnectionRefused");
    assert.match(JSON.stringify(error), /^\{"name":"VortexError","code":"ConnectionRefused",.*\}$/);
    await downloader.close();
  });
});

function definedKeys(value: object): string[] {
  if (value instanceof VortexError)
    return ["name", "code", "kind", "message", "addr", "cause"].filter(
      (key) => Reflect.get(value, key) !== undefined,
    );
  return Object.entries(value).flatMap(([key, item]) => (item === undefined ? [] : [key]));
}

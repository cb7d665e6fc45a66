import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import * as api from "@opentelemetry/api";
import { openTelemetry } from "../../adapters/opentelemetry.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { TransferOptions } from "../../src/client/downloader.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { VortexDownloader } from "../../src/client/vortex/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { taskIdOfUrl } from "../../src/ids.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { grpcDispatcher } from "../../src/server/grpc/dispatcher.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import {
  beginOperation,
  type OperationResult,
  type OperationStart,
  type Telemetry,
} from "../../src/telemetry.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import { assertRejects } from "../support/failures.ts";
import { settle } from "../support/fake-clock.ts";
import { MemoryGrpcBinding, peerServing } from "../support/grpc.ts";
import { seededBytes } from "../support/random.ts";

const source = { url: "https://example.com/file" };
const taskId = taskIdOfUrl(source);
const hostId = "10.0.0.1-host";
const content = seededBytes(5, 12_000);
const start: OperationStart = {
  name: "download_piece",
  role: "client",
  taskId,
  kind: "standard",
  number: 1,
};

function storeOf(): MemoryPieceStore {
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { pieceLength: 5000 });
  return store;
}

/** Observer that records all operations. */
class Recorder implements Telemetry {
  readonly ended: string[] = [];
  open = 0;

  begin({ name, role, number }: OperationStart) {
    this.open++;
    return {
      run: <T>(work: () => T): T => work(),
      end: ({ bytes, error }: OperationResult): void => {
        this.open--;
        this.ended.push(
          [role, name, number, error?.code ?? bytes].filter((part) => part !== undefined).join(" "),
        );
      },
    };
  }
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

/** Downloader and server over gRPC, both observed by `telemetry`. */
function grpcPair(
  telemetry: Telemetry,
  store: PieceStore = storeOf(),
  options: TransferOptions = {},
) {
  const methods = grpcDispatcher(store, serverSettings({ telemetry }, portableRuntime));
  const binding = new MemoryGrpcBinding(peerServing(methods));
  return new GrpcDownloader(
    async () => binding,
    downloaderSettings({ ...options, telemetry }, portableRuntime),
  );
}

describe("beginOperation", () => {
  it("returns undefined without an observer", () => {
    assert.equal(beginOperation(undefined, start), undefined);
  });

  it("forwards the end once", () => {
    const recorder = new Recorder();
    const operation = beginOperation(recorder, start);
    operation?.end({ bytes: 5 });
    operation?.end({ bytes: 6 });
    assert.deepEqual(recorder.ended, ["client download_piece 1 5"]);
  });

  it("drops exceptions of the observer", () => {
    const broken = (): never => {
      throw new Error("listener");
    };
    assert.equal(beginOperation({ begin: broken }, start), undefined);
    const operation = beginOperation({ begin: () => ({ run: broken, end: broken }) }, start);
    assert.ok(operation);
    assert.equal(
      operation.run(() => 7),
      7,
    );
    operation.end({});
  });

  it("rethrows exceptions of the work, and runs it once", () => {
    let done = 0;
    const twice: Telemetry = {
      begin: () => ({
        run: (work) => {
          work();
          throw new Error("listener");
        },
        end: () => {},
      }),
    };
    assert.equal(
      beginOperation(twice, start)?.run(() => ++done),
      1,
    );
    assert.equal(done, 1);
    const failing = (): never => {
      throw new Error("work");
    };
    assert.throws(() => beginOperation(new Recorder(), start)?.run(failing), /work/);
  });
});

describe("operations reported to telemetry", () => {
  it("over Vortex include each piece on both sides, with its bytes or its error", async () => {
    const recorder = new Recorder();
    const transport = new MemoryTransport();
    const store = storeOf();
    const server = await VortexServer.listen(
      transport,
      { host: "127.0.0.1", port: 0 },
      store,
      portableRuntime,
      {
        telemetry: recorder,
      },
    );
    const downloader = new VortexDownloader(
      async () => transport,
      downloaderSettings({ telemetry: recorder }, portableRuntime),
    );
    const addr = formatAddress(server.address);
    const request = { addr, hostId, taskId, number: 2 };
    const piece = await downloader.downloadPiece(request);
    assert.equal(recorder.open, 2);
    await piece.bytes();
    await settle();
    assert.deepEqual(recorder.ended.sort(), [
      "client download_piece 2 2000",
      "server download_piece 2 2000",
    ]);
    recorder.ended.length = 0;
    const range = { start: 10, end: 110 };
    await (await downloader.downloadPiece({ ...request, range })).bytes();
    await assertRejects(downloader.downloadPiece({ ...request, number: 9 }), "NotFound");
    (await downloader.downloadPiece(request)).cancel();
    await assertRejects(
      downloader.downloadPiece({ ...request, signal: AbortSignal.abort() }),
      "Aborted",
    );
    await assertRejects(
      downloader.downloadPiece({ ...request, pieceTimeout: -1 }),
      "InvalidArgument",
    );
    await server.close();
    await downloader.close();
    const ours = recorder.ended.filter((line) => line.startsWith("client"));
    assert.deepEqual(ours, [
      "client download_piece 2 100",
      "client download_piece 9 NotFound",
      "client download_piece 2 Aborted",
      "client download_piece 2 Aborted",
    ]);
    assert.ok(recorder.ended.includes("server download_piece 9 NotFound"));
    assert.equal(recorder.open, 0);
  });

  it("over gRPC include each call on both sides", async () => {
    const recorder = new Recorder();
    const downloader = grpcPair(recorder);
    const addr = "127.0.0.1:4000";
    const told = async (work: () => Promise<unknown>): Promise<string[]> => {
      recorder.ended.length = 0;
      await work();
      await settle();
      assert.equal(recorder.open, 0);
      return recorder.ended.sort();
    };
    const piece = async (): Promise<Uint8Array> =>
      (await downloader.downloadPiece({ addr, hostId, taskId, number: 0 })).bytes();
    assert.deepEqual(await told(piece), [
      "client download_piece 0 5000",
      "server download_piece 0 5000",
    ]);
    assert.deepEqual(await told(() => downloader.statTask(addr, taskId)), [
      "client stat_task 0",
      "server stat_local_task 0",
    ]);
    assert.deepEqual(
      await told(() => assertRejects(downloader.statTask(addr, "f".repeat(64)), "NotFound")),
      ["client stat_task NotFound", "server stat_local_task NotFound"],
    );
    assert.deepEqual(await told(() => all(downloader.syncPieces(addr, { taskId, hostId }))), [
      "client sync_pieces 0",
      "server sync_pieces 0",
    ]);
    assert.deepEqual(await told(async () => all(await downloader.downloadTask(addr, source))), [
      "client download_task 12000",
      "server download_task 12000",
    ]);
    const left = await told(async () => {
      for await (const _piece of downloader.syncPieces(addr, { taskId, hostId })) break;
    });
    assert.deepEqual(left, ["client sync_pieces Aborted", "server sync_pieces StreamReset"]);
    await downloader.close();
  });

  it("include a failing store as the server's error", async () => {
    const recorder = new Recorder();
    const store: PieceStore = {
      getTask: async () => undefined,
      getPiece: async () => {
        throw new Error("bad sector");
      },
    };
    const downloader = grpcPair(recorder, store);
    const request = { addr: "127.0.0.1:4000", hostId, taskId, number: 0 };
    await assertRejects(downloader.downloadPiece(request), "RemoteInternal");
    await downloader.close();
    assert.deepEqual(recorder.ended.sort(), [
      "client download_piece 0 RemoteInternal",
      "server download_piece 0 StorageFailed",
    ]);
  });

  it("are not disturbed by an observer that throws", async () => {
    const broken: Telemetry = {
      begin: () => {
        throw new Error("listener");
      },
    };
    const downloader = grpcPair(broken);
    const piece = await downloader.downloadPiece({
      addr: "127.0.0.1:4000",
      hostId,
      taskId,
      number: 0,
    });
    assert.deepEqual(await piece.bytes(), content.subarray(0, 5000));
    await downloader.close();
  });
});

/** Provider of spans and meters, registered through the API like an SDK. */
class RecordingSdk {
  readonly spans: {
    readonly name: string;
    readonly kind: number | undefined;
    readonly parent: string | undefined;
    readonly attributes: Record<string, unknown>;
    status: number | undefined;
    ended: boolean;
  }[] = [];
  readonly metrics = new Map<string, number>();
  #active = api.ROOT_CONTEXT;

  constructor() {
    api.trace.setGlobalTracerProvider({ getTracer: () => this.#tracer() });
    api.metrics.setGlobalMeterProvider({ getMeter: () => this.#meter() });
    api.context.setGlobalContextManager({
      active: () => this.#active,
      with: (context, work, thisArg, ...args) => {
        const before = this.#active;
        this.#active = context;
        try {
          return work.apply(thisArg, args);
        } finally {
          this.#active = before;
        }
      },
      bind: (_context, target) => target,
      enable() {
        return this;
      },
      disable() {
        return this;
      },
    });
  }

  #tracer(): api.Tracer {
    const startSpan = (
      name: string,
      options: api.SpanOptions = {},
      context = this.#active,
    ): api.Span => {
      const parent = api.trace.getSpan(context)?.spanContext().spanId;
      const attributes: Record<string, unknown> = { ...options.attributes };
      const told = {
        name,
        kind: options.kind,
        parent,
        attributes,
        status: undefined as number | undefined,
        ended: false,
      };
      this.spans.push(told);
      const spanContext = {
        traceId: "a".repeat(32),
        spanId: String(this.spans.length).padStart(16, "0"),
        traceFlags: 1,
      };
      const span = api.trace.wrapSpanContext(spanContext);
      return Object.assign(span, {
        setAttribute(key: string, value: unknown) {
          attributes[key] = value;
          return span;
        },
        setStatus({ code }: api.SpanStatus) {
          told.status = code;
          return span;
        },
        end() {
          told.ended = true;
        },
      });
    };
    return { startSpan } as unknown as api.Tracer;
  }

  #meter(): api.Meter {
    const count = (name: string) => ({
      add: (value: number, attributes: Record<string, unknown> = {}) => {
        const key = `${name}${JSON.stringify(attributes)}`;
        this.metrics.set(key, (this.metrics.get(key) ?? 0) + value);
      },
    });
    const createHistogram = (name: string) => ({
      record: (_value: number, attributes: Record<string, unknown> = {}) =>
        count(name).add(1, attributes),
    });
    return {
      createCounter: count,
      createUpDownCounter: count,
      createHistogram,
    } as unknown as api.Meter;
  }
}

describe("openTelemetry", () => {
  afterEach(() => {
    api.trace.disable();
    api.metrics.disable();
    api.context.disable();
  });

  it("makes spans and metrics with the names of stock Dragonfly", async () => {
    const sdk = new RecordingSdk();
    const downloader = grpcPair(openTelemetry(api));
    const addr = "127.0.0.1:4000";
    const request = { addr, hostId, taskId, number: 0 };
    await (await downloader.downloadPiece(request)).bytes();
    await assertRejects(downloader.downloadPiece({ ...request, number: 9 }), "NotFound");
    await assertRejects(
      downloader.downloadPiece({ ...request, signal: AbortSignal.abort() }),
      "Aborted",
    );
    await downloader.statTask(addr, taskId);
    await all(downloader.syncPieces(addr, { taskId, hostId }));
    await all(await downloader.downloadTask(addr, source));
    await settle();
    await downloader.close();
    assert.deepEqual(Object.fromEntries(sdk.metrics), {
      "dragonfly_client_download_piece_total{}": 3,
      'dragonfly_client_download_piece_failure_total{"error_type":"NotFound"}': 1,
      'dragonfly_client_download_traffic{"type":"REMOTE_PEER"}': 5000,
      "dragonfly_client_upload_piece_total{}": 2,
      'dragonfly_client_upload_piece_failure_total{"error_type":"NotFound"}': 1,
      "dragonfly_client_concurrent_upload_piece_total{}": 0,
      "dragonfly_client_upload_traffic{}": 17_000,
      'dragonfly_client_stat_local_task_total{"type":"0"}': 1,
      'dragonfly_client_download_task_total{"type":"0"}': 1,
      'dragonfly_client_concurrent_download_task_total{"type":"0"}': 0,
      'dragonfly_client_download_task_duration_milliseconds{"task_type":"0","task_size_level":"1"}': 1,
    });
    assert.ok(sdk.spans.every(({ ended }) => ended));
    const [first] = sdk.spans;
    assert.deepEqual(first, {
      name: "download_piece",
      kind: api.SpanKind.CLIENT,
      parent: undefined,
      attributes: {
        task_id: taskId,
        piece_id: `${taskId}-0`,
        remote_address: addr,
        task_type: "standard",
        content_length: 5000,
      },
      status: undefined,
      ended: true,
    });
    const failed = sdk.spans.filter(({ attributes }) => attributes["error.type"] === "NotFound");
    assert.deepEqual(
      failed.map(({ status, kind }) => [status, kind]),
      [
        [api.SpanStatusCode.ERROR, api.SpanKind.CLIENT],
        [api.SpanStatusCode.ERROR, api.SpanKind.SERVER],
      ],
    );
    const aborted = sdk.spans.filter(({ attributes }) => attributes["error.type"] === "Aborted");
    assert.deepEqual(
      aborted.map(({ status }) => status),
      [undefined],
    );
  });

  it("makes nested operations children of their operation", async () => {
    const sdk = new RecordingSdk();
    const telemetry = openTelemetry(api);
    const downloader = grpcPair(telemetry);
    const task = beginOperation(telemetry, {
      name: "download_task",
      role: "client",
      taskId,
      kind: "standard",
    });
    assert.ok(task);
    const piece = await task.run(() =>
      downloader.downloadPiece({ addr: "127.0.0.1:4000", hostId, taskId, number: 0 }),
    );
    await piece.bytes();
    task.end({ bytes: 5 * 2 ** 30 });
    await downloader.close();
    const ours = sdk.spans.filter(({ kind }) => kind === api.SpanKind.CLIENT);
    assert.deepEqual(
      ours.map(({ name, parent }) => [name, parent]),
      [
        ["download_task", undefined],
        ["download_piece", "0000000000000001"],
      ],
    );
    const duration =
      'dragonfly_client_download_task_duration_milliseconds{"task_type":"0","task_size_level":"12"}';
    assert.equal(sdk.metrics.get(duration), 1);
  });

  it("works without an SDK", async () => {
    const downloader = grpcPair(openTelemetry(api));
    const piece = await downloader.downloadPiece({
      addr: "127.0.0.1:4000",
      hostId,
      taskId,
      number: 0,
    });
    assert.deepEqual(await piece.bytes(), content.subarray(0, 5000));
    await downloader.close();
  });

  it("counts failed tasks, and sets the size level of each", () => {
    const sdk = new RecordingSdk();
    const telemetry = openTelemetry(api);
    const task = (kind: "standard" | "persistent", result: OperationResult): void =>
      telemetry.begin({ name: "download_task", role: "client", taskId, kind }).end(result);
    task("persistent", { error: new VortexError("DigestMismatch", "wrong") });
    task("standard", { error: new VortexError("Aborted", "by choice") });
    const mebi = 2 ** 20;
    for (const bytes of [
      0,
      1,
      mebi - 1,
      mebi,
      4 * mebi,
      1024 * mebi,
      4096 * mebi,
      2 ** 40,
      2 ** 41,
    ]) {
      task("standard", { bytes });
    }
    assert.equal(sdk.metrics.get('dragonfly_client_download_task_failure_total{"type":"1"}'), 1);
    assert.equal(
      sdk.metrics.get('dragonfly_client_download_task_failure_total{"type":"0"}'),
      undefined,
    );
    assert.equal(sdk.metrics.get('dragonfly_client_concurrent_download_task_total{"type":"0"}'), 0);
    const levels = [...sdk.metrics].flatMap(([name, count]) => {
      const level = /"task_size_level":"(\d+)"/.exec(name)?.[1];
      return level === undefined ? [] : [[Number(level), count]];
    });
    assert.deepEqual(levels, [
      [0, 1],
      [1, 2],
      [2, 1],
      [3, 1],
      [11, 1],
      [12, 1],
      [20, 2],
    ]);
  });
});

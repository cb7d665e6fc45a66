/** Methods of the gRPC server about its host: SyncHost, and the health of its services. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import { HostSchema } from "../../../src/gen/common/v2/common_pb.ts";
import {
  DfdaemonUpload,
  SyncHostRequestSchema,
  SyncPiecesRequestSchema,
} from "../../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import {
  HealthCheckRequestSchema,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Status,
} from "../../../src/gen/grpc/health/v1/health_pb.ts";
import { type ServerOptions, serverSettings } from "../../../src/server/admission/upload.ts";
import type { AdvertisedHost } from "../../../src/server/grpc/advertised.ts";
import { dispatch, grpcDispatcher } from "../../../src/server/grpc/dispatcher.ts";
import type { HostFigures } from "../../../src/server/grpc/host-probe.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import { FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";

const UPLOAD = "/dfdaemon.v2.DfdaemonUpload";
const HEALTH = "/grpc.health.v1.Health";

/** Response to a call. Messages and status arrive as the test advances. */
class Response<D extends DescMessage> {
  readonly messages: MessageShape<D>[] = [];
  /** True once the response headers have gone out. */
  started = false;
  readonly ended: Promise<void>;
  readonly trailers: Headers;
  readonly #cancel: AbortController;

  constructor(schema: D, { body, trailers }: ReturnType<typeof dispatch>, cancel: AbortController) {
    this.trailers = trailers;
    this.#cancel = cancel;
    this.ended = (async () => {
      for await (const chunk of body ?? []) {
        this.started = true;
        if (chunk.length > 0) this.messages.push(fromBinary(schema, chunk.subarray(5)));
      }
    })();
  }

  /** Code of the status; undefined while the call lasts. */
  get code(): Code | undefined {
    const status = this.trailers.get("grpc-status");
    return status === null ? undefined : Number(status);
  }

  cancel(): void {
    this.#cancel.abort();
  }
}

/** Server on a fake clock. `figures` are the readings of its probe, in order. */
function server({
  figures = [],
  options = {},
  advertised = {},
}: {
  readonly figures?: readonly HostFigures[];
  readonly options?: ServerOptions;
  readonly advertised?: AdvertisedHost;
} = {}) {
  const clock = new FakeClock();
  const store = new MemoryPieceStore();
  const settings = serverSettings(options, fakeRuntime(clock));
  const draining = new AbortController();
  const readings: string[] = [];
  const probe = {
    read: async (ip: string): Promise<HostFigures> => {
      readings.push(ip);
      const [first] = figures;
      if (first === undefined) throw new Error("no figures");
      return figures[readings.length - 1] ?? first;
    },
  };
  const methods = grpcDispatcher(store, settings, {
    advertised,
    port: 4000,
    probe,
    draining: draining.signal,
  });

  function call<I extends DescMessage, O extends DescMessage>(
    path: string,
    input: I,
    output: O,
    request: MessageInitShape<I>,
    network = "10.0.0.1",
  ): Response<O> {
    const cancel = new AbortController();
    const response = dispatch(methods, {
      verb: "POST",
      path,
      headers: new Headers({ "content-type": "application/grpc", "grpc-timeout": "10S" }),
      body: encodeEnvelope(0, toBinary(input, create(input, request))),
      signal: cancel.signal,
      network,
      localIp: "10.0.0.9",
    });
    return new Response(output, response, cancel);
  }

  return {
    clock,
    store,
    draining,
    readings,
    syncHost: (network?: string) =>
      call(
        `${UPLOAD}/SyncHost`,
        SyncHostRequestSchema,
        HostSchema,
        { hostId: "child", peerId: "peer" },
        network,
      ),
    health: (method: "Check" | "Watch", service: string, network?: string) =>
      call(
        `${HEALTH}/${method}`,
        HealthCheckRequestSchema,
        HealthCheckResponseSchema,
        { service },
        network,
      ),
    syncPieces: (taskId: string) =>
      call(`${UPLOAD}/SyncPieces`, SyncPiecesRequestSchema, HostSchema, { taskId }),
  };
}

const figures: HostFigures = {
  os: "linux",
  platform: "linux",
  kernelVersion: "6.1",
  cores: 8,
  cpuPercent: 25,
  processCpuPercent: 5,
  memoryTotal: 1000,
  memoryAvailable: 750,
  processMemory: 100,
  linkSpeed: 1_000_000_000,
  receiveRate: 10.4,
  sendRate: 20.6,
};

describe("SyncHost", () => {
  it("sends this host with its load at once, and each second until the child ends it", async () => {
    const later = { ...figures, sendRate: 900_000_000 };
    const peer = server({ figures: [figures, later], advertised: { hostname: "seed" } });
    const response = peer.syncHost();
    await settle();
    const [host] = response.messages;
    assert.ok(host);
    assert.deepEqual(
      [host.id, host.type, host.hostname, host.ip, host.port, host.os, host.kernelVersion],
      ["10.0.0.9-seed", 0, "seed", "10.0.0.9", 4000, "linux", "6.1"],
    );
    const { cpu, memory, network } = host;
    assert.deepEqual([cpu?.logicalCount, cpu?.percent, cpu?.processPercent], [8, 25, 5]);
    assert.deepEqual(
      [memory?.total, memory?.available, memory?.used, memory?.usedPercent],
      [1000n, 750n, 250n, 25],
    );
    assert.equal(memory?.processUsedPercent, 10);
    assert.deepEqual(
      [
        network?.maxRxBandwidth,
        network?.rxBandwidth,
        network?.maxTxBandwidth,
        network?.txBandwidth,
      ],
      [1_000_000_000n, 10n, 1_000_000_000n, 21n],
    );
    await peer.clock.advance(999);
    assert.equal(response.messages.length, 1);
    await peer.clock.advance(1);
    assert.equal(response.messages[1]?.network?.txBandwidth, 900_000_000n);
    // A child sets a deadline of 10 s, and reads for the length of its download.
    await peer.clock.advance(60_000);
    assert.equal(response.messages.length, 62);
    assert.equal(response.code, undefined);
    response.cancel();
    await response.ended;
    assert.equal(peer.clock.pending, 0);
  });

  it("sends zero for what is unknown, and the upload limit as the bandwidth", async () => {
    for (const [given, uploadRateLimit, maxTx] of [
      [[], undefined, 0n],
      [[], 1_000_000, 8_000_000n],
      [[{}], 1_000_000, 8_000_000n],
      [[{ linkSpeed: 1_000_000 }], 1_000_000, 1_000_000n],
      [[{ linkSpeed: 10_000_000 }], 1_000_000, 8_000_000n],
      [[{ linkSpeed: 10_000_000 }], undefined, 10_000_000n],
    ] as const) {
      const peer = server({ figures: given, options: { uploadRateLimit } });
      const response = peer.syncHost();
      await settle();
      const [host] = response.messages;
      assert.equal(host?.id, "10.0.0.9-vortex-peer");
      assert.equal(host?.network?.maxTxBandwidth, maxTx);
      assert.equal(host?.network?.txBandwidth, undefined);
      assert.equal(host?.memory?.usedPercent, 0);
      assert.equal(host?.cpu?.logicalCount, 0);
      response.cancel();
      await response.ended;
    }
  });

  it("reads the figures once a second for all children", async () => {
    const peer = server({ figures: [figures] });
    const responses = [1, 2, 3].map(() => peer.syncHost());
    await settle();
    assert.deepEqual(peer.readings, ["10.0.0.9"]);
    await peer.clock.advance(2000);
    assert.equal(peer.readings.length, 3);
    for (const response of responses) {
      assert.equal(response.messages.length, 3);
      response.cancel();
      await response.ended;
    }
  });

  it("is bounded by maxTaskStreams, apart from the responses about tasks", async () => {
    const peer = server({ figures: [figures], options: { maxTaskStreams: 2 } });
    const growing = "ab".repeat(32);
    peer.store.startTask(growing, 100);
    const pieces = [peer.syncPieces(growing), peer.syncPieces(growing)];
    const first = peer.syncHost("10.0.0.1");
    const second = peer.syncHost("10.0.0.1");
    await settle();
    const other = peer.syncHost("10.0.0.2");
    const extra = peer.syncHost("10.0.0.1");
    await settle();
    assert.equal(first.code, Code.ResourceExhausted);
    assert.equal(extra.code, Code.ResourceExhausted);
    assert.match(extra.trailers.get("grpc-message") ?? "", /maxTaskStreams/);
    for (const lasting of [second, other, ...pieces]) {
      assert.equal(lasting.code, undefined);
      lasting.cancel();
      await lasting.ended;
    }
  });
});

describe("the health of the server", () => {
  it("is SERVING by Check, then NOT_SERVING while the server closes", async () => {
    for (const service of ["", DfdaemonUpload.typeName]) {
      const { health, draining } = server();
      for (const status of [Status.SERVING, Status.NOT_SERVING]) {
        const response = health("Check", service);
        await response.ended;
        assert.equal(response.code, 0);
        assert.deepEqual(
          response.messages.map((message) => message.status),
          [status],
        );
        draining.abort();
      }
    }
  });

  it("of an unknown service is NOT_FOUND by Check, SERVICE_UNKNOWN by Watch", async () => {
    const { health } = server();
    for (const service of ["x", "grpc.health.v1.Health", "toString"]) {
      const checked = health("Check", service);
      await checked.ended;
      assert.equal(checked.code, Code.NotFound);
      assert.equal(checked.messages.length, 0);
      const watched = health("Watch", service);
      await settle();
      assert.deepEqual(
        watched.messages.map((message) => message.status),
        [Status.SERVICE_UNKNOWN],
      );
      assert.equal(watched.code, undefined);
      watched.cancel();
      await watched.ended;
    }
  });

  it("is reported by Watch at once, and when it changes", async () => {
    const { health, draining, clock } = server();
    const watched = health("Watch", "");
    await clock.advance(3_600_000);
    assert.deepEqual(
      watched.messages.map((message) => message.status),
      [Status.SERVING],
    );
    draining.abort();
    await watched.ended;
    assert.equal(watched.code, Code.Unavailable);
    assert.deepEqual(
      watched.messages.map((message) => message.status),
      [Status.SERVING, Status.NOT_SERVING],
    );
    const late = health("Watch", "");
    await late.ended;
    assert.deepEqual(
      late.messages.map((message) => message.status),
      [Status.NOT_SERVING],
    );
  });
});

describe("a closing server", () => {
  it("ends SyncHost and SyncPieces with UNAVAILABLE, at once and later", async () => {
    const peer = server({ figures: [figures] });
    const growing = "ab".repeat(32);
    peer.store.startTask(growing, 100);
    const calls = (): (Response<DescMessage> | Response<typeof HostSchema>)[] => [
      peer.syncHost(),
      peer.syncPieces(growing),
    ];
    const before = calls();
    await settle();
    peer.draining.abort();
    const after = calls();
    for (const response of [...before, ...after]) {
      await response.ended;
      assert.equal(response.code, Code.Unavailable);
      assert.match(response.trailers.get("grpc-message") ?? "", /closing/);
    }
    assert.equal(peer.clock.pending, 0);
  });
});

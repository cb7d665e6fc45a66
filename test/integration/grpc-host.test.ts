/** Responses about the host and its health, over real HTTP/2, with the figures of this machine. */
import assert from "node:assert/strict";
import { type } from "node:os";
import { it } from "node:test";
import { type Client, ConnectError, createClient } from "@connectrpc/connect";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { type GrpcServer, grpcServer } from "../../adapters/grpc/server.ts";
import { OsHostProbe } from "../../adapters/shared/host-probe.ts";
import type { Host } from "../../src/gen/common/v2/common_pb.ts";
import { DfdaemonUpload } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import {
  Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../../src/gen/grpc/health/v1/health_pb.ts";
import { portableRuntime, type Runtime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { FakeClock, fakeRuntime } from "../support/fake-clock.ts";

const testOptions = { timeout: 60_000 };
const growingTaskId = "ab".repeat(32);

/** Runs `use` with a server and clients of its services. */
async function withServer(
  runtime: Runtime,
  use: (
    server: GrpcServer,
    upload: Client<typeof DfdaemonUpload>,
    health: Client<typeof Health>,
  ) => Promise<void>,
): Promise<void> {
  const store = new MemoryPieceStore();
  store.startTask(growingTaskId, 1000);
  const settings = serverSettings({}, runtime);
  const server = await grpcServer({ host: "127.0.0.1", port: 0 }, store, settings);
  const connection = await grpcBinding().dial(server.address, { maxMessageLength: 65_536 });
  const transport = connection.transport(() => {});
  try {
    await use(server, createClient(DfdaemonUpload, transport), createClient(Health, transport));
  } finally {
    await connection.close();
    await server.close({ grace: 0 });
  }
}

it("SyncHost sends the load of this machine about once a second", testOptions, async () => {
  await withServer(portableRuntime, async (server, upload) => {
    const hosts: Host[] = [];
    for await (const host of upload.syncHost({ hostId: "child" })) {
      hosts.push(host);
      if (hosts.length === 2) break;
    }
    for (const { id, ip, port, os, cpu, memory } of hosts) {
      assert.deepEqual([id, ip], ["127.0.0.1-vortex-peer", "127.0.0.1"]);
      assert.deepEqual([port, os], [server.address.port, type().toLowerCase()]);
      assert.ok((cpu?.logicalCount ?? 0) > 0);
      assert.ok((memory?.total ?? 0n) > (memory?.available ?? 0n));
    }
    const { cpu, memory } = hosts[1] ?? {};
    for (const percent of [cpu?.percent, memory?.usedPercent, memory?.processUsedPercent])
      assert.ok(percent !== undefined && percent >= 0 && percent <= 100, `${percent}`);
  });
});

it("the figures of a network interface on Linux cover the time between two readings", {
  skip: type() !== "Linux" && "only Linux has /sys",
}, async () => {
  const clock = new FakeClock();
  const probe = new OsHostProbe(clock);
  const first = await probe.read("127.0.0.1");
  assert.deepEqual([first.sendRate, first.cpuPercent], [undefined, undefined]);
  await clock.advance(1000);
  const second = await probe.read("127.0.0.1");
  assert.ok((second.sendRate ?? -1) >= 0 && (second.receiveRate ?? -1) >= 0);
  assert.ok((second.processCpuPercent ?? -1) >= 0);
  // The loopback interface has no speed, and this address no interface.
  assert.equal(second.linkSpeed, undefined);
  assert.equal((await probe.read("192.0.2.1")).sendRate, undefined);
});

it("the health is SERVING, and NOT_SERVING when the server closes", testOptions, async () => {
  await withServer(fakeRuntime(new FakeClock()), async (server, upload, health) => {
    for (const service of ["", DfdaemonUpload.typeName])
      assert.equal((await health.check({ service })).status, Status.SERVING);
    const states: Status[] = [];
    let closing: Promise<void> | undefined;
    const lasting = [
      upload.syncPieces({ taskId: growingTaskId }),
      upload.syncHost({ hostId: "child" }),
    ].map(async (messages) => {
      for await (const _message of messages);
    });
    const failures = lasting.map((call) => assert.rejects(call, /closing/));
    const watching = (async () => {
      for await (const { status } of health.watch({})) {
        states.push(status);
        // The clock stands still, so no grace passes: the responses end by themselves.
        closing ??= server.close();
      }
    })();
    await assert.rejects(watching, (error) => {
      assert.match(ConnectError.from(error).message, /unavailable.*closing/);
      return true;
    });
    await Promise.all(failures);
    await closing;
    assert.deepEqual(states, [Status.SERVING, Status.NOT_SERVING]);
  });
});

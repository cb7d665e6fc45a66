/**
 * gRPC to a host with several addresses: Happy Eyeballs (RFC 8305). `test/compliance/addresses.ts`
 * tests the same for Vortex.
 */
import assert from "node:assert/strict";
import { createServer, type Socket } from "node:net";
import { describe, it } from "node:test";
import { grpcBindingWith } from "../../adapters/grpc/client.ts";
import { type GrpcServer, grpcServer } from "../../adapters/grpc/server.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { loopback6 } from "../compliance/dialling.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { skipped } from "../support/fixture.ts";
import { silentTcpHost } from "../support/silent-host.ts";

const taskId = "ab".repeat(32);
const store = new MemoryPieceStore();
store.putTask(taskId, new Uint8Array(100), { pieceLength: 100 });

describe("gRPC to a host with several addresses", () => {
  it("tries the next address after one without a listener", () =>
    assertReached(["127.0.0.2", "127.0.0.1"]));

  for (const [dead, alive] of [
    ["::1", "127.0.0.1"],
    ["127.0.0.1", "::1"],
  ] as const) {
    const test = `tries ${alive} after ${dead} without a listener`;
    const run = (): Promise<void> => assertReached([dead, alive], { host: alive, port: 0 });
    if (loopback6) it(test, run);
    else skipped(test, "this machine has no IPv6", run);
  }

  it("tries the next address beside a silent one", async () => {
    const silent = await silentTcpHost("127.0.0.2");
    try {
      await assertReached(["127.0.0.2", "127.0.0.1"], {
        host: "127.0.0.1",
        port: silent.address.port,
      });
    } finally {
      await silent.close();
    }
  });

  it("tries the next address after one that speaks another protocol", async () => {
    const server = await listen({ host: "127.0.0.1", port: 0 });
    const { port } = server.address;
    const other = createServer((socket) =>
      socket.on("error", () => {}).end("220 ready\r\n".repeat(10)),
    );
    await new Promise<void>((resolve) => other.listen(port, "127.0.0.2", resolve));
    try {
      assert.equal((await statAt(port, ["127.0.0.2", "127.0.0.1"])).contentLength, 100);
    } finally {
      other.close();
      await server.close({ grace: 0 });
    }
  });

  it("names every address in the error when all fail", async () => {
    const server = await listen({ host: "127.0.0.1", port: 0 });
    const { port } = server.address;
    await server.close({ grace: 0 });
    const { message, cause } = await assertRejects(
      statAt(port, ["127.0.0.2", "127.0.0.1"]),
      "ConnectionRefused",
    );
    for (const address of ["127.0.0.2", "127.0.0.1"]) {
      assert.ok(message.includes(address), message);
    }
    assert.ok(cause instanceof AggregateError);
    assert.equal(cause.errors.length, 2);
  });

  it("closes all pending dials on abort", async () => {
    const sockets: Socket[] = [];
    const controller = new AbortController();
    // These accept connections and never send a byte.
    const accept = (socket: Socket): void => {
      sockets.push(socket.on("error", () => {}));
      socket.resume();
      if (sockets.length === 2) controller.abort(new Error("changed my mind"));
    };
    const first = createServer(accept);
    await new Promise<void>((resolve) => first.listen(0, "127.0.0.1", resolve));
    const address = first.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    const second = createServer(accept);
    await new Promise<void>((resolve) => second.listen(port, "127.0.0.2", resolve));
    try {
      const binding = grpcBindingWith(async () => ["127.0.0.2", "127.0.0.1"]);
      const options = { signal: controller.signal, maxMessageLength: 1000 };
      const { code } = await rejectionOf(binding.dial({ host: "peer.example", port }, options));
      assert.equal(code, "Aborted");
      await Promise.all(
        sockets.map((socket) =>
          socket.destroyed ? undefined : new Promise((resolve) => socket.once("close", resolve)),
        ),
      );
    } finally {
      first.close();
      second.close();
    }
  });
});

function listen(local: { readonly host: string; readonly port: number }): Promise<GrpcServer> {
  return grpcServer(local, store, serverSettings({}, portableRuntime));
}

async function assertReached(
  addresses: readonly string[],
  local = { host: "127.0.0.1", port: 0 },
): Promise<void> {
  const server = await listen(local);
  try {
    assert.equal((await statAt(server.address.port, addresses)).contentLength, 100);
  } finally {
    await server.close({ grace: 0 });
  }
}

async function statAt(
  port: number,
  addresses: readonly string[],
): ReturnType<GrpcDownloader["statTask"]> {
  // Long enough that only a hanging dial reaches it.
  const settings = downloaderSettings({ connectTimeout: 30_000 }, portableRuntime);
  const downloader = new GrpcDownloader(
    async () => grpcBindingWith(async () => addresses),
    settings,
  );
  try {
    return await downloader.statTask(`peer.example:${port}`, taskId);
  } finally {
    await downloader.close();
  }
}

/** Dials to the port of another protocol. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { StorageServerOptions } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { assertRejects } from "../support/failures.ts";
import { skipped } from "../support/fixture.ts";
import { runtimeName } from "../support/fixtures.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

const taskId = "a1".repeat(32);
const store = new MemoryPieceStore();
store.putTask(taskId, new Uint8Array(1000));
const { createDownloader, startServer } = await runtimeEntry();

describe("Vortex over TCP, dialled at a gRPC port", () => {
  it("names HTTP/2, and the gRPC port", () =>
    assertMessage("tcp", { grpc: { port: 0 } }, /got HTTP\/2.*gRPC port/));

  const withTls = "fails with an error that names TLS if the port uses TLS";
  const run = (): Promise<void> =>
    assertMessage("tcp", { grpc: { port: 0, tls: true } }, /got TLS.*gRPC port/);
  if (runtimeName === "node")
    skipped(withTls, "a server on node:tls closes the connection without an alert", run);
  else it(withTls, run);
});

it("gRPC, dialled at a Vortex port, fails with an error that asks for the gRPC port", () =>
  assertMessage("grpc", { tcp: { port: 0 } }, /does not speak HTTP\/2.*gRPC port/));

it("gRPC over TLS, dialled at a port in the clear, says that the peer does not speak TLS there", async () => {
  const server = await startServer({ host: "127.0.0.1", store, grpc: { port: 0 } });
  const { grpc } = server.addresses;
  assert.ok(grpc !== undefined);
  const addr = formatAddress(grpc);
  const request = { addr, hostId: "me", taskId, number: 0 };
  const tls = { fingerprints: ["ab".repeat(32)] };
  await using downloader = createDownloader({ protocol: "grpc", tls });
  try {
    const failed = await assertRejects(downloader.downloadPiece(request), "ProtocolNotSupported");
    assert.match(failed.message, new RegExp(`^${addr} does not speak TLS: .*grpc\\.tls`));
    assert.doesNotMatch(failed.message, /ssl|wrong version|InvalidContentType/i);
    assert.ok(failed.cause instanceof Error && /version/i.test(failed.cause.message));
  } finally {
    await server.close({ grace: 0 });
  }
});

async function assertMessage(
  protocol: "tcp" | "grpc",
  ports: Pick<StorageServerOptions, "tcp" | "grpc">,
  expected: RegExp,
): Promise<void> {
  const server = await startServer({ host: "127.0.0.1", store, ...ports });
  const downloader = createDownloader({ protocol });
  try {
    const address = server.addresses.tcp ?? server.addresses.grpc;
    assert.ok(address !== undefined);
    const piece = downloader.downloadPiece({
      addr: formatAddress(address),
      hostId: "me",
      taskId,
      number: 0,
    });
    const { message } = await assertRejects(piece, "ProtocolNotSupported");
    assert.match(message, expected);
  } finally {
    await downloader.close();
    await server.close({ grace: 0 });
  }
}

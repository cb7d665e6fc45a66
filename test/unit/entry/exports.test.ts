import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { workersTransport } from "../../../adapters/workers/transport.ts";
import * as bun from "../../../entry/bun.ts";
import * as config from "../../../entry/config.ts";
import * as core from "../../../entry/core.ts";
import * as deno from "../../../entry/deno.ts";
import * as grpc from "../../../entry/grpc.ts";
import * as node from "../../../entry/node.ts";
import * as root from "../../../entry/root.ts";
import * as workers from "../../../entry/workers.ts";
import { runtimeName } from "../../support/fixtures.ts";

/**
 * Entry point of each value named in Dragonfly's design document. `StorageServer` is the type of
 * what `startServer` returns.
 */
const designNames = {
  createDownloader: node,
  startServer: node,
  QuicClient: core,
  QuicDownloader: core,
  QuicServer: core,
  TcpDownloader: core,
  StorageClient: config,
  GrpcDownloader: grpc,
};

describe("runtime entry points", () => {
  it("the names of the design document are exported", () => {
    for (const [name, entry] of Object.entries(designNames))
      assert.equal(typeof Reflect.get(entry, name), "function", name);
  });

  it("node, bun and deno export the same names, and workers all that need no server or file", () => {
    const names = Object.keys(node).sort();
    for (const entry of [bun, deno]) assert.deepEqual(Object.keys(entry).sort(), names);
    const missing = names.filter((name) => !(name in workers));
    assert.deepEqual(missing, ["FilePieceStore", "startServer", "statTask"]);
    assert.deepEqual(
      Object.keys(root).filter((name) => !(name in workers)),
      [],
    );
  });

  it("workers loads outside of workerd, where its transport fails with Unavailable", async () => {
    const request = { addr: "127.0.0.1:9", hostId: "h", taskId: "a".repeat(64), number: 0 };
    await using downloader = workers.createDownloader({ protocol: "tcp" });
    await assert.rejects(downloader.downloadPiece(request), {
      code: "Unavailable",
      message: /cloudflare:sockets/,
    });
    const listening = workersTransport.listen({ host: "127.0.0.1", port: 0 });
    await assert.rejects(listening, { code: "Unavailable", message: /Node, Bun or Deno/ });
  });

  it("an unknown protocol fails with InvalidArgument and lists the known ones", () => {
    const protocol = "rdma" as "tcp";
    assert.throws(() => node.createDownloader({ protocol }), {
      code: "InvalidArgument",
      message: 'protocol: expected tcp, quic, grpc, auto, hybrid, got "rdma"',
    });
  });

  it("QUIC tuning options reach the runtime's binding, for clients and servers", async () => {
    const entry = { node, bun, deno }[runtimeName];
    const request = { addr: "127.0.0.1:9", hostId: "h", taskId: "a".repeat(64), number: 0 };
    const wrong = { code: "InvalidArgument", message: /^idleTimeout: .*got 1$/ };
    await using downloader = entry.createDownloader({ protocol: "quic", quic: { idleTimeout: 1 } });
    await assert.rejects(downloader.downloadPiece(request), wrong);
    const store = new entry.MemoryPieceStore();
    await assert.rejects(
      entry.startServer({ store, host: "127.0.0.1", quic: { port: 0, idleTimeout: 1 } }),
      wrong,
    );
  });

  const noQuiche = runtimeName === "deno" ? "quiche is for Node and Bun" : undefined;
  const quicheName =
    "QUIC is quiche on Node and Bun, the only binding with an option for datagram size";
  it(noQuiche === undefined ? quicheName : `${quicheName} [gap: ${noQuiche}]`, {
    skip: noQuiche !== undefined,
  }, async () => {
    const request = { addr: "127.0.0.1:9", hostId: "h", taskId: "a".repeat(64), number: 0 };
    for (const entry of [node, bun]) {
      await using downloader = entry.createDownloader({
        protocol: "quic",
        quic: { udpPayloadSize: 1 },
      });
      const wrong = { code: "InvalidArgument", message: /^udpPayloadSize: .*got 1$/ };
      await assert.rejects(downloader.downloadPiece(request), wrong);
    }
  });

  const inDeno = runtimeName === "deno" ? "Deno has its QUIC" : undefined;
  const name =
    "Deno's entry point elsewhere uses TCP for QUIC, or fails with Unavailable if tls requires verification";
  it(inDeno === undefined ? name : `${name} [gap: ${inDeno}]`, {
    skip: inDeno !== undefined,
  }, async () => {
    const request = { addr: "127.0.0.1:9", hostId: "h", taskId: "a".repeat(64), number: 0 };
    await using pinned = deno.createDownloader({
      protocol: "quic",
      tls: { fingerprints: ["ab".repeat(32)] },
    });
    await assert.rejects(pinned.downloadPiece(request), {
      code: "Unavailable",
      message: /"tcp".*no TLS/,
    });
    await using plain = deno.createDownloader({ protocol: "quic", tls: { verify: false } });
    await assert.rejects(plain.downloadPiece(request), {
      code: "ConnectionRefused",
      message: /instead of QUIC/,
    });
  });
});

describe("the core, which is `vortex-peer` when no export condition matches", () => {
  it("fetches pieces over the caller's transport", async () => {
    const transport = new core.MemoryTransport("tcp");
    const store = new core.MemoryPieceStore();
    const taskId = "ab".repeat(32);
    store.putTask(taskId, new TextEncoder().encode("content"));
    await using server = await core.VortexServer.listen(
      transport,
      { host: "peer", port: 4005 },
      store,
      core.portableRuntime,
    );
    await using downloader = core.createDownloader({ protocol: "tcp", transport });
    const addr = core.formatAddress(server.address);
    const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 0 });
    assert.equal(new TextDecoder().decode(await piece.bytes()), "content");
  });

  for (const protocol of core.protocolChoices) {
    it(`without a transport, ${protocol} fails with Unavailable and names the entry points`, () => {
      const options = { protocol } as Parameters<typeof core.createDownloader>[0];
      assert.throws(() => core.createDownloader(options), {
        code: "Unavailable",
        message: /vortex-peer\/node.*your own transport/,
      });
    });
  }

  it("a transport of another protocol fails with InvalidArgument", async () => {
    await using downloader = core.createDownloader({
      protocol: "quic",
      transport: new core.MemoryTransport("tcp"),
    });
    const request = { addr: "peer:4006", hostId: "h", taskId: "a".repeat(64), number: 0 };
    await assert.rejects(downloader.downloadPiece(request), {
      code: "InvalidArgument",
      message: /protocol of the transport: expected quic, got tcp/,
    });
  });
});

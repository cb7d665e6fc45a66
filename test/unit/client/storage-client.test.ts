import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { downloaderOptions } from "../../../src/client/configured.ts";
import type { PieceDownloader, PieceRequest } from "../../../src/client/downloader.ts";
import { type DownloaderOptions, downloaderFactory } from "../../../src/client/factory.ts";
import { StorageClient } from "../../../src/client/storage-client.ts";
import { parseConfig } from "../../../src/config/config.ts";
import { VortexError } from "../../../src/errors.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import { protocols } from "../../../src/transport/protocol.ts";

const taskId = "ab".repeat(32);

/** Factory of downloaders that only record their requests. */
function recorder() {
  const made: DownloaderOptions[] = [];
  const asked: PieceRequest[] = [];
  let closed = 0;
  const createDownloader = (options: DownloaderOptions): PieceDownloader => {
    made.push(options);
    const close = async (): Promise<void> => {
      closed++;
    };
    return {
      downloadPiece: async (request) => {
        asked.push(request);
        throw new VortexError("NotFound", "only noted");
      },
      close,
      [Symbol.asyncDispose]: close,
    };
  };
  return { made, asked, createDownloader, closed: () => closed };
}

describe("StorageClient", () => {
  it("uses the configured protocol and its port", async () => {
    const server = { ip: "10.0.0.7", tcpPort: 1, quicPort: 2 };
    const addresses = { tcp: "10.0.0.7:1", quic: "10.0.0.7:2", grpc: "10.0.0.7:3" };
    for (const protocol of protocols) {
      const { made, asked, createDownloader } = recorder();
      const config = parseConfig({
        download: { protocol },
        storage: { server },
        upload: { server: { port: 3 } },
      });
      const client = new StorageClient({ config, createDownloader });
      assert.equal(client.protocol, protocol);
      await assert.rejects(client.downloadPiece("peer", taskId, 5), { code: "NotFound" });
      assert.deepEqual(made, [downloaderOptions(config)]);
      assert.deepEqual(asked, [{ addr: addresses[protocol], taskId, number: 5 }]);
    }
  });

  it("encloses an IPv6 address in brackets", async () => {
    const { asked, createDownloader } = recorder();
    const config = parseConfig({ storage: { server: { ip: "fd00::7" } } });
    await assert.rejects(
      new StorageClient({ config, createDownloader }).downloadPiece("peer", taskId, 0),
    );
    assert.equal(asked[0]?.addr, "[fd00::7]:4005");
  });

  it("prefers addressOf", async () => {
    const { made, asked, createDownloader } = recorder();
    const config = parseConfig({
      download: { protocol: "quic" },
      storage: { server: { ip: "10.0.0.7" } },
    });
    const addressOf = (peerId: string, protocol: string): string =>
      `${peerId}.${protocol}.example:99`;
    const client = new StorageClient({ config, createDownloader, addressOf, hostId: "me" });
    await assert.rejects(client.downloadPiece("peer-1", taskId, 0), { code: "NotFound" });
    assert.deepEqual(asked[0], {
      addr: "peer-1.quic.example:99",
      taskId,
      number: 0,
    });
    assert.equal(made[0]?.hostId, "me");
  });

  it("explains what to do without an address of the peer", async () => {
    const { asked, createDownloader } = recorder();
    const client = new StorageClient({ config: parseConfig({}), createDownloader });
    await assert.rejects(client.downloadPiece("peer", taskId, 0), {
      code: "InvalidArgument",
      message:
        "address of the peer: expected storage.server.ip in the configuration or option addressOf, " +
        "got neither",
    });
    assert.equal(asked.length, 0);
  });

  it("accepts piece ids in the form of stock Dragonfly", async () => {
    const { asked, createDownloader } = recorder();
    const config = parseConfig({ storage: { server: { ip: "10.0.0.7" } } });
    const client = new StorageClient({ config, createDownloader });
    for (const number of [0, 7, 4294967295]) {
      await assert.rejects(client.downloadPiece("peer", taskId, `${taskId}-${number}`), {
        code: "NotFound",
      });
      assert.equal(asked.at(-1)?.number, number);
    }
    // A task id may contain dashes.
    await assert.rejects(client.downloadPiece("peer", "a-1", "a-1-2"), { code: "NotFound" });
    assert.deepEqual([asked.at(-1)?.taskId, asked.at(-1)?.number], ["a-1", 2]);
  });

  it("rejects malformed piece ids and those of other tasks", async () => {
    const { asked, createDownloader } = recorder();
    const config = parseConfig({ storage: { server: { ip: "10.0.0.7" } } });
    const client = new StorageClient({ config, createDownloader });
    const wrong = [
      "",
      "7",
      taskId,
      `${taskId}-`,
      `${taskId}-x`,
      `${taskId}--1`,
      `${taskId}-01`,
      `${taskId}-4294967296`,
    ];
    for (const pieceId of [
      ...wrong,
      `${"cd".repeat(32)}-7`,
      `${taskId}-1.5`,
      -1,
      1.5,
      4294967296,
      Number.NaN,
    ]) {
      await assert.rejects(
        client.downloadPiece("peer", taskId, pieceId),
        { code: "InvalidArgument" },
        String(pieceId),
      );
    }
    assert.equal(asked.length, 0);
  });

  it("passes on range, kind, timeouts and signal; options override the configuration", async () => {
    const { made, asked, createDownloader } = recorder();
    const config = parseConfig({
      download: { pieceTimeout: "9s" },
      storage: { server: { ip: "10.0.0.7" } },
    });
    const tls = { verify: false } as const;
    const client = new StorageClient({
      config,
      createDownloader,
      tls,
      pieceTimeout: 8_000,
      connectTimeout: 7_000,
    });
    assert.deepEqual(made, [
      { ...downloaderOptions(config), tls, pieceTimeout: 8_000, connectTimeout: 7_000 },
    ]);
    const { signal } = new AbortController();
    const options = { signal, stallTimeout: 6_000, kind: "persistent-cache" } as const;
    await assert.rejects(client.downloadPiece("peer", taskId, 1, { start: 2, end: 3 }, options), {
      code: "NotFound",
    });
    assert.deepEqual(asked, [
      {
        addr: "10.0.0.7:4005",
        taskId,
        number: 1,
        kind: "persistent-cache",
        range: { start: 2, end: 3 },
        signal,
        stallTimeout: 6_000,
      },
    ]);
    new StorageClient({ config, createDownloader });
    assert.deepEqual(made[1], { ...downloaderOptions(config), pieceTimeout: 9_000 });
  });

  it("closes its downloader, including by await using", async () => {
    const { createDownloader, closed } = recorder();
    {
      await using client = new StorageClient({ config: parseConfig({}), createDownloader });
      assert.equal(client.protocol, "tcp");
      assert.equal(closed(), 0);
    }
    assert.equal(closed(), 1);
  });

  it("fetches the same range of a piece over two protocols with a real downloader", async () => {
    const content = Uint8Array.from({ length: 1000 }, (_, index) => index % 251);
    const store = new MemoryPieceStore();
    store.putTask(taskId, content, { pieceLength: 400 });
    for (const protocol of ["tcp", "quic"] as const) {
      const transport = new MemoryTransport(protocol);
      const config = parseConfig({
        download: { protocol },
        storage: { server: { ip: "10.0.0.7" } },
      });
      const port = protocol === "tcp" ? 4005 : 4006;
      const local = { host: "10.0.0.7", port };
      await using _server = await VortexServer.listen(transport, local, store, portableRuntime);
      const createDownloader = downloaderFactory({
        runtime: portableRuntime,
        quic: async () => transport,
        tcp: async () => transport,
        grpc: () => assert.fail("not asked for"),
      });
      await using client = new StorageClient({ config, createDownloader });
      const piece = await client.downloadPiece("peer", taskId, `${taskId}-1`, {
        start: 10,
        end: 20,
      });
      assert.deepEqual(await piece.bytes(), content.slice(410, 420));
      const last = await client.downloadPiece("peer", taskId, 2);
      assert.deepEqual(await last.bytes(), content.slice(800));
      await assert.rejects(client.downloadPiece("peer", taskId, 3), { code: "NotFound" });
    }
  });
});

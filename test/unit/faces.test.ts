import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as bun from "../../adapters/bun.ts";
import * as deno from "../../adapters/deno.ts";
import * as node from "../../adapters/node.ts";

/** The names of Dragonfly's design document that are values; `Downloader` and `DownloaderFactory` are types. */
const names = [
  "createDownloader",
  "GrpcDownloader",
  "QuicClient",
  "QuicDownloader",
  "QuicServer",
  "StorageClient",
  "StorageServer",
  "TcpDownloader",
];

describe("faces", () => {
  for (const [runtime, face] of Object.entries({ node, bun, deno })) {
    it(`${runtime} has the names of the design document`, () => {
      const missing = names.filter((name) => typeof face[name as keyof typeof face] !== "function");
      assert.deepEqual(missing, []);
    });
  }

  it("an unknown protocol is InvalidArgument, and the message names those that are known", () => {
    const protocol = "rdma" as "tcp";
    assert.throws(() => node.createDownloader({ protocol }), {
      code: "InvalidArgument",
      message: 'protocol "rdma": expected tcp, quic, grpc',
    });
  });

  it("QUIC on Deno is Unavailable for now, and the message names the way out", async () => {
    const downloader = deno.createDownloader({ protocol: "quic" });
    const request = { addr: "127.0.0.1:9", hostId: "h", taskId: "a".repeat(64), number: 0 };
    await assert.rejects(downloader.downloadPiece(request), { code: "Unavailable", message: /"tcp"/ });
    await downloader.close();
  });
});

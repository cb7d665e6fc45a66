/** Pieces without a digest from a parent that serves them over TCP and gRPC. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { assertRejects } from "../support/failures.ts";
import { seededBytes } from "../support/random.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

const taskId = "d7".repeat(32);
const content = seededBytes(7, 250_000);
const lengths = { contentLength: content.length, pieceLength: 100_000 };

/** Store whose pieces have no digest, like those of a dfdaemon that imported the task. */
function bareStore(): PieceStore {
  const whole = new MemoryPieceStore();
  whole.putTask(taskId, content, { pieceLength: lengths.pieceLength });
  return {
    getTask: (id) => whole.getTask(id),
    async getPiece(request) {
      const piece = await whole.getPiece(request);
      if (piece === undefined) return undefined;
      return { ...piece, metadata: { ...piece.metadata, digest: "" } };
    },
  };
}

describe("pieces without a digest", () => {
  let started: StorageServer | undefined;
  const addrOf = (protocol: "tcp" | "grpc"): string => {
    const address = started?.addresses[protocol];
    assert.ok(address);
    return formatAddress(address);
  };

  before(async () => {
    const { startServer } = await runtimeEntry();
    const port = { port: 0 };
    started = await startServer({ host: "127.0.0.1", tcp: port, grpc: port, store: bareStore() });
  });
  after(() => started?.close());

  for (const protocol of ["tcp", "grpc"] as const) {
    it(`are taken over ${protocol}, unless unverifiedPieces refuses them`, async () => {
      const { createDownloader } = await runtimeEntry();
      const addr = addrOf(protocol);
      const task = { taskId, parents: [addr], ...lengths };
      const refuse = { unverifiedPieces: "refuse" } as const;
      const piece = { addr, taskId, number: 1 };
      {
        await using downloader = createDownloader({ protocol });
        const fetched = await downloader.downloadPiece(piece);
        assert.equal(fetched.digest, "");
        assert.deepEqual(await fetched.bytes(), content.subarray(100_000, 200_000));
        const stream = downloader.streamTask(task);
        assert.deepEqual(await stream.bytes(), content);
        assert.deepEqual((await stream.report).verified, { level: "none" });
        await assertRejects(downloader.downloadPiece({ ...piece, ...refuse }), "ProtocolViolation");
        const refused = downloader.streamTask({ ...task, ...refuse });
        await assertRejects(refused.bytes(), "ProtocolViolation");
      }
      await using strict = createDownloader({ protocol, ...refuse });
      await assertRejects(strict.downloadPiece(piece), "ProtocolViolation");
      await assertRejects(strict.streamTask(task).bytes(), "ProtocolViolation");
      const allowed = strict.streamTask({ ...task, unverifiedPieces: "accept" });
      assert.deepEqual(await allowed.bytes(), content);
    });
  }
});

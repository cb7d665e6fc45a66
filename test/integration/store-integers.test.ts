/** Custom stores, whose integers are numbers or bigints, behind real servers of each protocol. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import type { VortexError } from "../../src/errors.ts";
import type { PieceMetadata } from "../../src/piece.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import type { PieceStore, StoredTask } from "../../src/store/store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { rejectionOf } from "../support/failures.ts";
import { seededBytes } from "../support/random.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

const testOptions = { timeout: 60_000 };
const { createDownloader, startServer, statTask } = await runtimeEntry();
const taskId = "ab".repeat(32);
const content = seededBytes(3, 10_000);
const stored = memoryPieceStoreWith(nativeHashers);
stored.putTask(taskId, content, { pieceLength: 4000 });

type Metadata = PieceMetadata<number | bigint>;
type Task = StoredTask<number | bigint>;

/** Store whose metadata and tasks are changed on their way out. */
function storeWith(
  piece: (metadata: PieceMetadata) => Metadata,
  task: (task: StoredTask) => Partial<Task> = () => ({}),
): PieceStore {
  return {
    async getPiece(request) {
      const found = await stored.getPiece(request);
      return found && { metadata: piece(found.metadata), read: (range) => found.read(range) };
    },
    async getTask(id) {
      const found = await stored.getTask(id);
      if (found === undefined) return undefined;
      const pieces = function* (): Generator<Metadata, void, void> {
        for (const metadata of found.pieces()) yield piece(metadata);
      };
      return { ...found, pieces, ...task(found) };
    },
  };
}

const inNumbers = (metadata: PieceMetadata): Metadata => ({
  ...metadata,
  offset: Number(metadata.offset),
  length: Number(metadata.length),
  costSeconds: Number(metadata.costSeconds),
  createdAtSeconds: Number(metadata.createdAtSeconds),
});

const inBigints = (task: StoredTask): Partial<Task> => ({
  contentLength: BigInt(task.contentLength),
  pieceLength: BigInt(task.pieceLength),
});

const protocols = ["tcp", "quic", "grpc"] as const;

/** Runs `use` with a server of `store` and the address of one of its protocols. */
async function withServer(
  store: PieceStore,
  protocol: (typeof protocols)[number],
  use: (addr: string, errors: readonly VortexError[], fingerprint: string) => Promise<void>,
): Promise<void> {
  const errors: VortexError[] = [];
  const server = await startServer({
    store,
    host: "127.0.0.1",
    [protocol]: { port: 0 },
    onError: (error) => errors.push(error),
  });
  try {
    const address = server.addresses[protocol] ?? assert.fail("not listening");
    await use(formatAddress(address), errors, server.fingerprint ?? "");
  } finally {
    await server.close({ grace: 0 });
  }
}

for (const protocol of protocols) {
  describe(`a custom store, over ${protocol}`, () => {
    async function fetched(addr: string, fingerprint: string, number: number) {
      const tls = protocol === "quic" ? { tls: { fingerprints: [fingerprint] } } : {};
      const downloader = createDownloader({ protocol, ...tls });
      try {
        const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number });
        const { offset, length } = piece;
        return { bytes: await piece.bytes(), offset, length };
      } finally {
        await downloader.close();
      }
    }

    for (const [type, store] of [
      ["numbers", storeWith(inNumbers)],
      ["bigints", storeWith((metadata) => metadata, inBigints)],
    ] as const) {
      it(`may have integers of type ${type}`, testOptions, async () => {
        await withServer(store, protocol, async (addr, errors, fingerprint) => {
          const expected = { bytes: content.subarray(4000, 8000), offset: 4000, length: 4000 };
          const { bytes, ...extent } = await fetched(addr, fingerprint, 1);
          assert.deepEqual({ bytes: new Uint8Array(bytes), ...extent }, expected);
          if (protocol === "grpc") {
            const stat = await statTask(addr, taskId);
            assert.deepEqual(stat, { contentLength: 10_000, pieceLength: 4000 });
          }
          assert.deepEqual(errors, []);
        });
      });
    }

    it("with an invalid integer fails that request, and reports it", testOptions, async () => {
      for (const [field, value] of [
        ["offset", -1],
        ["length", -4000n],
        ["length", 2n ** 63n],
        ["costSeconds", 0.5],
        ["createdAtSeconds", Number.NaN],
        ["createdAtSeconds", "1"],
        ["trafficType", 256],
        ["number", undefined],
        ["digest", undefined],
      ] as const) {
        const store = storeWith((metadata) => Object.assign({ ...metadata }, { [field]: value }));
        await withServer(store, protocol, async (addr, errors, fingerprint) => {
          const failure = await rejectionOf(fetched(addr, fingerprint, 0));
          assert.equal(failure.code, "RemoteInternal");
          // The details stay on the server.
          assert.doesNotMatch(failure.message, new RegExp(field));
          assert.equal(errors[0]?.code, "StorageFailed");
          assert.match(
            errors[0]?.message ?? "",
            new RegExp(`from the store: ${field}.*: expected `),
          );
        });
      }
    });
  });
}

describe("a custom store, asked for its task over gRPC", () => {
  it("with an invalid integer fails that request, and reports it", testOptions, async () => {
    for (const [field, value] of [
      ["contentLength", -1],
      ["contentLength", 2n ** 60n],
      ["pieceLength", 0],
      ["createdAtSeconds", -5n],
    ] as const) {
      const store = storeWith(inNumbers, () => ({ [field]: value }));
      await withServer(store, "grpc", async (addr, errors) => {
        assert.equal((await rejectionOf(statTask(addr, taskId))).code, "RemoteInternal");
        assert.equal(errors[0]?.code, "StorageFailed");
        assert.match(errors[0]?.message ?? "", new RegExp(`from the store: ${field}.*: expected `));
      });
    }
  });
});

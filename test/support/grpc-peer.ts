/**
 * One end of `test/integration/grpc-pairs.test.ts`, in a process of its own:
 *
 *     grpc-peer.ts server            prints its port, and serves until its standard input ends
 *     grpc-peer.ts client PORT       fetches, checks every byte, and prints what it fetched
 *
 * Both end by themselves, so whatever they leave open shows.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import process from "node:process";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { nativeHashers } from "../../adapters/native-hashers.ts";
import { GrpcDownloader } from "../../src/client/grpc.ts";
import { downloaderSettings } from "../../src/client/settings.ts";
import { portableRuntime, type Runtime } from "../../src/runtime.ts";
import { MemoryPieceStore } from "../../src/server/memory-store.ts";
import { serverSettings } from "../../src/server/upload.ts";
import { seededBytes } from "./random.ts";

const MEBI = 1024 * 1024;
const LENGTH = 64 * MEBI;
const ROUNDS = 2;
const runtime: Runtime = { ...portableRuntime, hashers: nativeHashers };
/** The same bytes, in one piece and in 16. */
const whole = "a".repeat(64);
const many = "b".repeat(64);
const content = seededBytes(9, LENGTH);

const [, , role, port] = process.argv;
if (role === "server") await serve();
else await fetchAll(`127.0.0.1:${port}`);

async function serve(): Promise<void> {
  const store = new MemoryPieceStore(nativeHashers);
  store.putTask(whole, content, { pieceLength: LENGTH });
  store.putTask(many, content, { pieceLength: 4 * MEBI });
  const onError = (error: Error): void => console.error(error.message);
  const server = await grpcServer({ host: "127.0.0.1", port: 0 }, store, serverSettings({ onError }, runtime));
  console.log(server.address.port);
  process.stdin.resume();
  process.stdin.once("end", () => server.close());
}

async function fetchAll(addr: string): Promise<void> {
  const downloader = new GrpcDownloader(async () => grpcBinding(), downloaderSettings({}, runtime));
  let bytes = 0;
  const fetch = async (taskId: string, number: number, length: number): Promise<void> => {
    const piece = await downloader.downloadPiece({ addr, hostId: "127.0.0.1-test", taskId, number });
    const got = await piece.bytes();
    assert.equal(Buffer.compare(got, content.subarray(number * length, (number + 1) * length)), 0);
    bytes += got.length;
  };
  for (let round = 0; round < ROUNDS; round++) {
    await Promise.all(Array.from({ length: 32 }, (_, turn) => fetch(many, turn % 16, 4 * MEBI)));
    await fetch(whole, 0, LENGTH);
  }
  const connections = downloader.connections().length;
  await downloader.close();
  console.log(JSON.stringify({ bytes, connections }));
}

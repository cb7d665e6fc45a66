/**
 * Test program: server or client of `test/integration/matrix.test.ts`.
 *
 *     matrix-peer.ts server FACE   prints a `MatrixServer` (its addresses) and serves
 *     matrix-peer.ts client FACE   for each input line, a `MatrixRequest`, prints a `MatrixResult`
 *
 * FACE names the package entry point: `node`, `bun` or `deno`. Server and client stop at the end of
 * their standard input. They call no `exit`, so leaked handles keep the process alive and fail the
 * test.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import process from "node:process";
import { createInterface } from "node:readline";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import type { RuntimeApi } from "../../entry/runtime-api.ts";
import type { PieceDownloader } from "../../src/client/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { pieceExtent } from "../../src/piece.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import {
  contentOf,
  longPiece,
  type MatrixFailure,
  type MatrixRequest,
  type MatrixResult,
  type MatrixServer,
  type MatrixTask,
  manyPieces,
  oddTask,
} from "./matrix.ts";

const [, , role, name] = process.argv;
const entry = await faceOf(name);
if (role === "server") await serve(entry);
else await serveRequests(entry);

/**
 * Imports only the entry point of the given runtime, because other entry points may not load on it.
 */
function faceOf(
  name: string | undefined,
): Promise<Pick<RuntimeApi, "createDownloader" | "startServer">> {
  if (name === "bun") return import("../../entry/bun.ts");
  return name === "deno" ? import("../../entry/deno.ts") : import("../../entry/node.ts");
}

async function serve({ startServer }: Pick<RuntimeApi, "startServer">): Promise<void> {
  const store = memoryPieceStoreWith(nativeHashers);
  for (const task of [oddTask, manyPieces, longPiece]) {
    store.putTask(task.taskId, contentOf(task), { pieceLength: task.plan.pieceLength });
  }
  const servers: StorageServer[] = [];
  let fingerprint: string | undefined;
  // One server for each protocol, since a runtime may lack a protocol.
  const start = async (protocol: Protocol): Promise<string | MatrixFailure> => {
    try {
      const onError = (error: Error): void => console.error(`${protocol}: ${error.message}`);
      const server = await startServer({
        store,
        host: "127.0.0.1",
        [protocol]: { port: 0 },
        onError,
      });
      servers.push(server);
      fingerprint ??= server.fingerprint;
      const address = server.addresses[protocol];
      return address === undefined
        ? { code: "Internal", message: `the ${protocol} server has no address` }
        : formatAddress(address);
    } catch (error) {
      return failureOf(error);
    }
  };
  const addrs = { quic: await start("quic"), tcp: await start("tcp"), grpc: await start("grpc") };
  console.log(
    JSON.stringify({
      addrs,
      ...(fingerprint !== undefined && { fingerprint }),
    } satisfies MatrixServer),
  );
  process.stdin.resume();
  process.stdin.once("end", () => Promise.all(servers.map((server) => server.close())));
}

async function serveRequests(entry: Pick<RuntimeApi, "createDownloader">): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    const result: MatrixResult = await fetchRequest(entry, JSON.parse(line) as MatrixRequest).catch(
      failureOf,
    );
    console.log(JSON.stringify(result));
  }
}

async function fetchRequest(
  { createDownloader }: Pick<RuntimeApi, "createDownloader">,
  request: MatrixRequest,
): Promise<MatrixResult> {
  const { protocol, addr, fingerprint, tasks, repeats } = request;
  await using downloader = createDownloader({
    protocol,
    ...(fingerprint !== undefined && { tls: { fingerprints: [fingerprint] } }),
  });
  const digests: string[] = [];
  for (const task of tasks) {
    const all = await Promise.all(
      Array.from({ length: repeats }, () => fetchTask(downloader, addr, task)),
    );
    digests.push(...all);
  }
  return { digests };
}

/**
 * Downloads all pieces of a task concurrently, and checks each piece. Returns the SHA-256 of the
 * content, in hex.
 */
async function fetchTask(
  downloader: PieceDownloader,
  addr: string,
  task: MatrixTask,
): Promise<string> {
  const { taskId, plan } = task;
  const content = contentOf(task);
  const pieces = await Promise.all(
    Array.from({ length: plan.pieceCount }, async (_, number) => {
      const { offset, length } = pieceExtent(plan, number);
      const piece = await downloader.downloadPiece({
        addr,
        hostId: "127.0.0.1-matrix",
        taskId,
        number,
      });
      assert.deepEqual([piece.number, piece.offset, piece.length], [number, offset, length]);
      const bytes = await piece.bytes();
      assert.equal(
        Buffer.compare(bytes, content.subarray(offset, offset + length)),
        0,
        `the bytes of piece ${number}`,
      );
      return bytes;
    }),
  );
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return hash.digest("hex");
}

function failureOf(error: unknown): MatrixFailure {
  if (error instanceof VortexError) return { code: error.code, message: error.message };
  return {
    code: "unexpected",
    message: error instanceof Error ? `${error.message}\n${error.stack}` : String(error),
  };
}

/**
 * Test program: serves a task of seeded bytes, with the behaviour named in its argument. It first
 * prints its port, and its certificate's fingerprint over QUIC. Then it prints the number of each
 * requested piece.
 */
import process from "node:process";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { StoredPiece } from "../../src/store/store.ts";
import { seededBytes } from "./random.ts";
import { runtimeEntry } from "./runtime-entry.ts";

/** Command-line argument of this test program, as JSON. */
export interface TaskPeerOptions {
  readonly taskId: string;
  readonly seed: number;
  readonly contentLength: number;
  readonly pieceLength: number;
  /**
   * - `stall` sends half of each piece, then nothing.
   * - `corrupt` sends wrong content for every fifth piece.
   * - `hang` serves two pieces, then behaves like `stall`.
   * - `late` waits for a line of standard input, then serves like `honest`.
   */
  readonly behaviour: "honest" | "late" | "stall" | "corrupt" | "hang";
  readonly uploadRateLimit?: number;
  /** Protocol over which the task is served. Default: `tcp`. */
  readonly protocol?: "quic" | "tcp" | "grpc";
}

const {
  taskId,
  seed,
  contentLength,
  pieceLength,
  behaviour,
  uploadRateLimit,
  protocol = "tcp",
} = JSON.parse(process.argv[2] ?? "{}") as TaskPeerOptions;
const store = new MemoryPieceStore();
store.putTask(taskId, seededBytes(seed, contentLength), { pieceLength });
let requestCount = 0;
const released = new Promise<void>((resolve) => {
  if (behaviour === "late") process.stdin.once("data", () => resolve());
});

const { startServer } = await runtimeEntry();
const server = await startServer({
  host: "127.0.0.1",
  [protocol]: { port: 0 },
  ...(uploadRateLimit !== undefined && { uploadRateLimit }),
  store: {
    getTask: (id) => store.getTask(id),
    async getPiece(request) {
      console.log(request.number);
      requestCount++;
      if (behaviour === "late") await released;
      const piece = await store.getPiece(request);
      if (piece === undefined) return undefined;
      if (behaviour === "stall" || (behaviour === "hang" && requestCount > 2))
        return { ...piece, read: () => halfOf(piece) };
      if (behaviour === "corrupt" && request.number % 5 === 0)
        return { ...piece, read: () => corrupted(piece) };
      return piece;
    },
  },
});
console.log(["port", server.addresses[protocol]?.port, server.fingerprint].join(" "));

async function* halfOf(piece: StoredPiece): AsyncGenerator<Uint8Array> {
  yield* piece.read({ start: 0, end: Number(piece.metadata.length) >> 1 });
  await new Promise(() => {});
}

async function* corrupted(piece: StoredPiece): AsyncGenerator<Uint8Array> {
  for await (const chunk of piece.read()) {
    const copy = chunk.slice();
    copy[0] = (copy[0] ?? 0) ^ 1;
    yield copy;
  }
}

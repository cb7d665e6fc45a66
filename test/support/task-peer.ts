/**
 * A parent in a process of its own, for tests of tasks. Serves seeded bytes over TCP, in the manner that its argument names, and
 * prints its port, then the number of each piece that it is asked for.
 */
import process from "node:process";
import { faceOf } from "../../adapters/face.ts";
import { MemoryPieceStore } from "../../src/server/memory-store.ts";
import type { StoredPiece } from "../../src/server/store.ts";
import { seededBytes } from "./random.ts";

/** What the parent is told, as JSON. */
export interface TaskPeerOptions {
  readonly taskId: string;
  readonly seed: number;
  readonly contentLength: number;
  readonly pieceLength: number;
  /** `stall`: half of each piece, and nothing more. `corrupt`: every fifth piece is wrong. `hang`: as `stall`, after two pieces. */
  readonly manner: "honest" | "stall" | "corrupt" | "hang";
  readonly uploadRateLimit?: number;
}

const { taskId, seed, contentLength, pieceLength, manner, uploadRateLimit } = JSON.parse(
  process.argv[2] ?? "{}",
) as TaskPeerOptions;
const whole = new MemoryPieceStore();
whole.putTask(taskId, seededBytes(seed, contentLength), { pieceLength });
let asked = 0;

const server = await faceOf(() => Promise.reject(new Error("no QUIC here"))).startServer({
  host: "127.0.0.1",
  tcp: { port: 0 },
  ...(uploadRateLimit !== undefined && { uploadRateLimit }),
  store: {
    getTask: (id) => whole.getTask(id),
    async getPiece(request) {
      console.log(request.number);
      asked++;
      const piece = await whole.getPiece(request);
      if (piece === undefined) return undefined;
      if (manner === "stall" || (manner === "hang" && asked > 2)) return { ...piece, read: () => halfOf(piece) };
      if (manner === "corrupt" && request.number % 5 === 0) return { ...piece, read: () => wrong(piece) };
      return piece;
    },
  },
});
console.log(`port ${server.addresses.tcp?.port}`);

async function* halfOf(piece: StoredPiece): AsyncGenerator<Uint8Array> {
  yield* piece.read({ start: 0, end: Number(piece.metadata.length) >> 1 });
  await new Promise(() => {});
}

async function* wrong(piece: StoredPiece): AsyncGenerator<Uint8Array> {
  for await (const chunk of piece.read()) {
    const copy = chunk.slice();
    copy[0] = (copy[0] ?? 0) ^ 1;
    yield copy;
  }
}

/**
 * A parent in a process of its own, for tests of tasks. Serves seeded bytes in the manner that its argument names, and prints its
 * port and, over QUIC, the fingerprint of its certificate, then the number of each piece that it is asked for.
 */
import process from "node:process";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { StoredPiece } from "../../src/store/store.ts";
import { seededBytes } from "./random.ts";
import { runtimeFace } from "./runtime-face.ts";

/** What the parent is told, as JSON. */
export interface TaskPeerOptions {
  readonly taskId: string;
  readonly seed: number;
  readonly contentLength: number;
  readonly pieceLength: number;
  /**
   * `stall`: half of each piece, and nothing more. `corrupt`: every fifth piece is wrong. `hang`: as `stall`, after two
   * pieces. `late`: nothing before there is a line on its standard input, and then honest.
   */
  readonly manner: "honest" | "late" | "stall" | "corrupt" | "hang";
  readonly uploadRateLimit?: number;
  /** Default `tcp`. */
  readonly protocol?: "quic" | "tcp" | "grpc";
}

const {
  taskId,
  seed,
  contentLength,
  pieceLength,
  manner,
  uploadRateLimit,
  protocol = "tcp",
} = JSON.parse(process.argv[2] ?? "{}") as TaskPeerOptions;
const whole = new MemoryPieceStore();
whole.putTask(taskId, seededBytes(seed, contentLength), { pieceLength });
let asked = 0;
const called = new Promise<void>((resolve) => {
  if (manner === "late") process.stdin.once("data", () => resolve());
});

const { startServer } = await runtimeFace();
const server = await startServer({
  host: "127.0.0.1",
  [protocol]: { port: 0 },
  ...(uploadRateLimit !== undefined && { uploadRateLimit }),
  store: {
    getTask: (id) => whole.getTask(id),
    async getPiece(request) {
      console.log(request.number);
      asked++;
      if (manner === "late") await called;
      const piece = await whole.getPiece(request);
      if (piece === undefined) return undefined;
      if (manner === "stall" || (manner === "hang" && asked > 2))
        return { ...piece, read: () => halfOf(piece) };
      if (manner === "corrupt" && request.number % 5 === 0)
        return { ...piece, read: () => wrong(piece) };
      return piece;
    },
  },
});
console.log(["port", server.addresses[protocol]?.port, server.fingerprint].join(" "));

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

import { VortexError } from "../../errors.ts";
import type {
  DirectoryOptions,
  PieceLocation,
  SyncOptions,
  TaskDirectory,
  TaskOutline,
} from "../../task/discovery.ts";
import { MAX_PIECES } from "../../task/layout.ts";
import type { GrpcDownloader } from "./downloader.ts";

/**
 * {@link TaskDirectory} over the Dragonfly gRPC API, on the connections of a
 * {@link GrpcDownloader}.
 */
export class GrpcDirectory implements TaskDirectory {
  readonly #downloader: Pick<GrpcDownloader, "statTask" | "syncPieces">;

  constructor(downloader: Pick<GrpcDownloader, "statTask" | "syncPieces">) {
    this.#downloader = downloader;
  }

  async stat(
    addr: string,
    taskId: string,
    { signal, kind }: DirectoryOptions,
  ): Promise<TaskOutline> {
    const { contentLength, pieceLength, digest } = await this.#downloader.statTask(addr, taskId, {
      signal,
      kind,
    });
    const pieceCount = Math.ceil(contentLength / pieceLength);
    // Callers allocate a list of all piece numbers, so their number must be limited.
    if (pieceCount > MAX_PIECES) {
      throw new VortexError(
        "LimitExceeded",
        `pieces of the task: expected at most ${MAX_PIECES}, got ${pieceCount}`,
        { addr },
      );
    }
    return { contentLength, pieceLength, pieceCount, ...(digest !== undefined && { digest }) };
  }

  async *sync(
    addr: string,
    taskId: string,
    { signal, hostId, kind, numbers }: SyncOptions,
  ): AsyncGenerator<PieceLocation, void, void> {
    // An empty list means all pieces to peers of this library, and no pieces to stock peers.
    if (numbers.length === 0) return;
    yield* this.#downloader.syncPieces(
      addr,
      { taskId, hostId, kind, interestedPieceNumbers: numbers },
      { signal },
    );
  }
}

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

/** A {@link TaskDirectory} that asks parents over the Dragonfly API, by the connections of a downloader. */
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
    // Whoever asks for pieces makes a list of their numbers.
    if (pieceCount > MAX_PIECES) {
      throw new VortexError(
        "LimitExceeded",
        `a task of ${pieceCount} pieces: the limit is ${MAX_PIECES}`,
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
    // An empty list would ask for all pieces here, and for nothing that stock peers know.
    if (numbers.length === 0) return;
    yield* this.#downloader.syncPieces(
      addr,
      { taskId, hostId, kind, interestedPieceNumbers: numbers },
      { signal },
    );
  }
}

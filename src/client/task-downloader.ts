import type { Piece } from "../piece.ts";
import type { TaskDirectory } from "../task/discovery.ts";
import { TaskFetcher } from "../task/fetcher.ts";
import type { TaskDownload, TaskDownloadOptions, TaskOptions, TaskRequest, TaskStream } from "../task/task.ts";
import type { Protocol } from "../transport/protocol.ts";
import type { CallOptions, Downloader, DownloaderSettings, PieceRequest } from "./downloader.ts";

/** A directory that has connections of its own. */
export interface ClosableDirectory extends TaskDirectory {
  /** Ends all connections. Idempotent. */
  close(): Promise<void>;
}

/** Fetches pieces, and whole tasks made of them. The same for every protocol; made by `createDownloader`. */
export class TaskDownloader implements Downloader {
  readonly #pieces: Downloader;
  readonly #directory: ClosableDirectory | undefined;
  readonly #tasks: TaskFetcher;

  /**
   * @param pieces what pieces are fetched by; closed with this
   * @param directory whom to ask where pieces are; closed with this
   */
  constructor(
    pieces: Downloader,
    protocol: Protocol,
    directory: ClosableDirectory | undefined,
    settings: DownloaderSettings,
  ) {
    this.#pieces = pieces;
    this.#directory = directory;
    this.#tasks = new TaskFetcher(
      {
        fetchPiece: (request, options) => pieces.downloadPiece(request, options),
        directory,
        addressOf: ({ tcpAddr, quicAddr }) => (protocol === "quic" ? quicAddr : tcpAddr),
        speaksApi: protocol === "grpc",
      },
      settings,
    );
  }

  /** See {@link Downloader.downloadPiece}. */
  downloadPiece(request: PieceRequest, options?: CallOptions): Promise<Piece> {
    return this.#pieces.downloadPiece(request, options);
  }

  /**
   * Fetches a task from all of its parents at once, to a sink. It is right even when parents are slow, wrong or gone: each piece
   * is checked by its digest and the whole by its own, what fails is had from another parent, and whoever delivers what is
   * wrong is not asked again. Returns at once; `done` tells how it went.
   *
   * @throws `InvalidArgument`, `Closed`
   */
  downloadTask(request: TaskRequest, options: TaskDownloadOptions): TaskDownload {
    return this.#tasks.downloadTask(request, options);
  }

  /**
   * As {@link downloadTask}, with the content as a stream in order. Up to 32 MiB, or two pieces if these are longer, are in
   * memory ahead of the reader.
   *
   * @throws `InvalidArgument`, `Closed`
   */
  streamTask(request: TaskRequest, options?: TaskOptions): TaskStream {
    return this.#tasks.streamTask(request, options);
  }

  async close(): Promise<void> {
    await this.#tasks.close();
    await Promise.all([this.#pieces.close(), this.#directory?.close()]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

import type { Piece } from "../piece.ts";
import type { TaskDirectory } from "../task/discovery.ts";
import { TaskFetcher } from "../task/fetcher.ts";
import type {
  TaskDownload,
  TaskDownloadOptions,
  TaskOptions,
  TaskRequest,
  TaskStream,
} from "../task/task.ts";
import type { PeerPieceRequest } from "./auto/downloader.ts";
import type { CallOptions, Downloader, DownloaderSettings } from "./downloader.ts";
import type { PieceSource } from "./piece-source.ts";

/** {@link TaskDirectory} that owns connections. */
export interface ClosableDirectory extends TaskDirectory {
  /** Closes all connections. Idempotent. */
  close(): Promise<void>;
}

/** Fetches pieces and whole tasks. Same class for every protocol; made by `createDownloader`. */
export class TaskDownloader implements Downloader {
  readonly #pieces: PieceSource;
  readonly #directory: ClosableDirectory | undefined;
  readonly #tasks: TaskFetcher;

  /**
   * @param pieces source of pieces; `close` closes it
   * @param directory client that asks parents for their pieces of a task; `close` closes it
   */
  constructor(
    pieces: PieceSource,
    directory: ClosableDirectory | undefined,
    settings: DownloaderSettings,
  ) {
    this.#pieces = pieces;
    this.#directory = directory;
    this.#tasks = new TaskFetcher({ ...pieces, directory }, settings);
  }

  /** See {@link Downloader.downloadPiece}. */
  downloadPiece(request: PeerPieceRequest, options?: CallOptions): Promise<Piece> {
    return this.#pieces.downloadPiece(request, options);
  }

  /**
   * Fetches a task from all its parents at once and writes it to a sink. Tolerates slow, malicious
   * and vanished parents: the digest of each piece and of the whole task is verified. A failed
   * piece is fetched from another parent, and a parent that sends wrong bytes is banned. Returns at
   * once; `done` settles with the outcome.
   *
   * @throws `InvalidArgument`, `Closed`
   *
   * @example
   * ```ts
   * import { createDownloader, fileSink } from "vortex-peer";
   *
   * const downloader = createDownloader({ protocol: "tcp" });
   * const download = downloader.downloadTask(
   *   {
   *     taskId: "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd",
   *     hostId: "my-host",
   *     parents: ["10.0.0.7:4005", "10.0.0.8:4005"],
   *   },
   *   {
   *     to: fileSink("model.safetensors"),
   *     onProgress: ({ bytes, totalBytes }) => console.log(bytes, totalBytes),
   *   },
   * );
   * const { bytes, duration } = await download.done;
   * console.log(bytes, duration);
   * await downloader.close();
   * ```
   */
  downloadTask(request: TaskRequest, options: TaskDownloadOptions): TaskDownload {
    return this.#tasks.downloadTask(request, options);
  }

  /**
   * Fetches a task like {@link downloadTask}, and returns its content as an ordered stream. Buffers
   * up to 32 MiB ahead of the reader, or two pieces if those are longer.
   *
   * @throws `InvalidArgument`, `Closed`
   *
   * @example
   * ```ts
   * import { createDownloader } from "vortex-peer";
   *
   * const downloader = createDownloader({ protocol: "tcp" });
   * const { content } = downloader.streamTask({
   *   taskId: "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd",
   *   hostId: "my-host",
   *   parents: ["10.0.0.7:4005", "10.0.0.8:4005"],
   * });
   * for await (const chunk of content) console.log(chunk.length);
   * await downloader.close();
   * ```
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

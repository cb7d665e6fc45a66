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
import type { CallOptions, DownloaderSettings, PieceDownloader } from "./downloader.ts";
import type { PieceSource } from "./piece-source.ts";

/** {@link TaskDirectory} with open connections, which its owner must close. */
export interface ClosableDirectory extends TaskDirectory {
  /** Closes all connections. Idempotent. */
  close(): Promise<void>;
}

/**
 * Fetches single pieces and whole tasks. The class is the same for every protocol. Created by
 * `createDownloader`.
 */
export class TaskDownloader implements PieceDownloader {
  readonly #pieces: PieceSource;
  readonly #directory: ClosableDirectory | undefined;
  readonly #tasks: TaskFetcher;

  /**
   * @param pieces fetches the pieces; {@link close} closes it
   * @param directory client that asks parents which pieces of a task they have; {@link close}
   * closes it
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

  /** Requests a piece, see {@link PieceDownloader.downloadPiece}. */
  downloadPiece(request: PeerPieceRequest, options?: CallOptions): Promise<Piece> {
    return this.#pieces.downloadPiece(request, options);
  }

  /**
   * Fetches a task from all its parents at once and writes it to a sink. Returns immediately: the
   * promise `done` of the returned object settles when the download has ended.
   *
   * Tolerates slow, malicious and vanished parents. The digest of each piece is verified, and the
   * digest of the whole content if it is known. A failed piece is fetched from another parent. A
   * parent that sends wrong bytes is not used again.
   *
   * @throws `InvalidArgument` if the request or an option is invalid
   * @throws `Closed` if the downloader is closed
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
   *
   */
  downloadTask(request: TaskRequest, options: TaskDownloadOptions): TaskDownload {
    return this.#tasks.downloadTask(request, options);
  }

  /**
   * Fetches a task like {@link downloadTask}, and returns its content as a stream in order. Buffers
   * up to 32 MiB that the reader has not read yet, or two pieces if these are longer.
   *
   * @throws `InvalidArgument` if the request or an option is invalid
   * @throws `Closed` if the downloader is closed
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
   *
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

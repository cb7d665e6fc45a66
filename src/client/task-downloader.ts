import { requireOptions } from "../arguments.ts";
import type { Piece } from "../piece.ts";
import type { OpenFileSink } from "../task/destination.ts";
import type { TaskDirectory } from "../task/discovery.ts";
import { TaskFetcher } from "../task/fetcher.ts";
import type {
  TaskDownload,
  TaskDownloadOptions,
  TaskStream,
  TaskStreamOptions,
} from "../task/task.ts";
import type { DownloaderSettings, PieceDownloadOptions } from "./downloader.ts";
import { pieceRequestChecks } from "./downloader.ts";
import type { PieceSource } from "./piece-source.ts";

/** {@link TaskDirectory} with open connections, which its owner must close. */
export interface ClosableDirectory extends TaskDirectory {
  /** Closes all connections. Idempotent. */
  close(): Promise<void>;
}

/**
 * Fetches single pieces and whole tasks. The interface is the same for every protocol. Created by
 * `createDownloader`.
 */
export interface Downloader {
  /**
   * Requests a piece from a peer. Resolves when the peer has announced the piece. The content is
   * then read from the returned {@link Piece}.
   *
   * Rejects with a `VortexError`:
   * - bad arguments: `InvalidArgument`;
   * - no connection: `ConnectionRefused`, `Unreachable`, `ConnectTimeout`, `HandshakeFailed`,
   *   `ProtocolNotSupported`;
   * - errors that the peer sent: `NotFound` and the `Remote…` codes;
   * - invalid responses: `PieceMismatch`, `ProtocolViolation`, `InvalidPacket`, `InvalidLength`,
   *   `InvalidUtf8`, `LimitExceeded`, `TruncatedContent`;
   * - lost connections and streams: `ConnectionLost`, `StreamReset`;
   * - timeouts: `PieceTimeout`, `Stalled`;
   * - end by the caller: `Aborted`, `Closed`.
   *
   * Reading the content fails with the same codes, and with `DigestMismatch`.
   *
   * @example
   * ```ts
   * import { createDownloader } from "vortex-peer";
   *
   * const downloader = createDownloader({ protocol: "tcp" });
   * const piece = await downloader.downloadPiece({
   *   addr: "10.0.0.7:4005",
   *   taskId: "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd",
   *   number: 0,
   *   signal: AbortSignal.timeout(10_000),
   * });
   * for await (const chunk of piece.content) console.log(chunk.length);
   * await downloader.close();
   * ```
   */
  downloadPiece(options: PieceDownloadOptions): Promise<Piece>;
  /**
   * Fetches a task from all its parents at once and writes it to a file, a stream or a sink.
   * Returns a promise of the report, which also has methods to observe and pause the download.
   *
   * Tolerates slow, malicious and vanished parents. The digest of each piece is verified, and the
   * digest of the whole content if it is known. A failed piece is fetched from another parent. A
   * parent that sends wrong bytes is not used again.
   *
   * The promise rejects as described at {@link TaskDownload}.
   *
   * @example
   * ```ts
   * import { createDownloader } from "vortex-peer";
   *
   * const downloader = createDownloader();
   * const { bytes, duration, verified } = await downloader.downloadTask({
   *   taskId: "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd",
   *   parents: ["10.0.0.7:4005", "10.0.0.8:4005"],
   *   to: "model.safetensors",
   *   onProgress: ({ bytes, totalBytes }) => console.log(bytes, totalBytes),
   * });
   * console.log(bytes, duration, verified.level);
   * await downloader.close();
   * ```
   */
  downloadTask(options: TaskDownloadOptions): TaskDownload;
  /**
   * Fetches a task like {@link downloadTask}, and returns its content as a stream in order. Buffers
   * up to 32 MiB that the reader has not read yet, or two pieces if these are longer.
   *
   * Returns at once. Invalid options fail the stream and its promises.
   *
   * @example
   * ```ts
   * import { createDownloader } from "vortex-peer";
   *
   * const downloader = createDownloader();
   * const { content } = downloader.streamTask({
   *   taskId: "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd",
   *   parents: ["10.0.0.7:4005", "10.0.0.8:4005"],
   * });
   * for await (const chunk of content) console.log(chunk.length);
   * await downloader.close();
   * ```
   */
  streamTask(options: TaskStreamOptions): TaskStream;
  /**
   * Ends all downloads and pending requests with `Closed`, and closes all connections. Idempotent.
   */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** {@link Downloader} over the protocols of a {@link PieceSource}. */
export class TaskDownloader implements Downloader {
  readonly #pieces: PieceSource;
  readonly #directory: ClosableDirectory | undefined;
  readonly #tasks: TaskFetcher;

  /**
   * @param pieces fetches the pieces; {@link close} closes it
   * @param directory client that asks parents which pieces of a task they have; {@link close}
   * closes it
   * @param fileSink creates the sink of a file; undefined if the runtime has no files
   */
  constructor(
    pieces: PieceSource,
    directory: ClosableDirectory | undefined,
    settings: DownloaderSettings,
    fileSink: OpenFileSink | undefined,
  ) {
    this.#pieces = pieces;
    this.#directory = directory;
    this.#tasks = new TaskFetcher({ ...pieces, directory }, settings, fileSink);
  }

  async downloadPiece(options: PieceDownloadOptions): Promise<Piece> {
    requireOptions("downloadPiece", options, pieceRequestChecks);
    return this.#pieces.downloadPiece(options);
  }

  downloadTask(options: TaskDownloadOptions): TaskDownload {
    return this.#tasks.downloadTask(options);
  }

  streamTask(options: TaskStreamOptions): TaskStream {
    return this.#tasks.streamTask(options);
  }

  async close(): Promise<void> {
    await this.#tasks.close();
    await Promise.all([this.#pieces.close(), this.#directory?.close()]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

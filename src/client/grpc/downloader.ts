import { type Checks, oneOf, requireOptions, text } from "../../arguments.ts";
import { untilAborted } from "../../errors.ts";
import { loadPart } from "../../load.ts";
import { type PieceKind, pieceKinds } from "../../piece.ts";
import { formatAddress } from "../../transport/address.ts";
import type { GrpcBinding } from "../../transport/grpc.ts";
import { PooledDownloader } from "../call/pooled-downloader.ts";
import { callTimeouts } from "../call/settings.ts";
import {
  type CallOptions,
  callChecks,
  type DownloaderSettings,
  MAX_TIMEOUT_MS,
} from "../downloader.ts";
import { merged } from "../merged.ts";
import type { TaskStat } from "../task-stat.ts";
import type { GrpcClient } from "./client.ts";
import {
  type DownloadTaskOptions,
  requireRange,
  type StreamedTask,
  type TaskIdentity,
  type TaskPieces,
  taskIdOf,
} from "./download-task.ts";
import {
  type AnnouncedPiece,
  requestedNumbers,
  requestsFor,
  type SyncRequest,
} from "./sync-pieces.ts";

export type {
  DownloadTaskOptions,
  FetchedPiece,
  TaskIdentity,
  TaskPieces,
} from "./download-task.ts";
export type { AnnouncedPiece, SyncRequest } from "./sync-pieces.ts";

/**
 * Loads the gRPC implementation of a runtime at its first use. So a missing one makes the call
 * fail, not the import.
 */
export type GrpcBindingLoader = () => Promise<GrpcBinding>;

/**
 * Downloader over the Dragonfly gRPC API (`dfdaemon.v2.DfdaemonUpload`), with a connection pool.
 *
 * A piece is one gRPC message, so the whole piece is held in memory. Therefore
 * {@link downloadPiece} resolves only after the message was received and the digests of its content
 * and metadata were verified.
 */
export class GrpcDownloader extends PooledDownloader<GrpcClient> {
  readonly #settings: DownloaderSettings;
  /** Returns a promise that resolves when no load is pending. */
  readonly #loaded: () => Promise<void>;

  constructor(binding: GrpcBindingLoader, settings: DownloaderSettings) {
    let pending: Promise<void> = Promise.resolve();
    super(async (remote, signal) => {
      const load = Promise.all([loadClient(), binding()]);
      const before = pending;
      const done = (): Promise<void> => before;
      pending = load.then(done, done);
      // The calls may end, or the downloader may be closed, during the load.
      const [client, grpc] = await untilAborted(
        load,
        signal,
        `a connection to ${formatAddress(remote)}`,
      );
      return client.connect(grpc, remote, settings, signal);
    }, settings);
    this.#settings = settings;
    this.#loaded = () => pending;
  }

  /** Closes all connections, and waits for a pending load of the gRPC implementation. */
  override async close(): Promise<void> {
    await super.close();
    await this.#loaded();
  }

  /**
   * Requests the length of a task and of its pieces from a peer. The call is limited by the
   * timeouts in `options`.
   *
   * Rejects like {@link downloadPiece}. Also rejects with `NotFound` if the peer does not know the
   * length of the task yet.
   */
  async statTask(peer: string, taskId: string, options: StatTaskOptions = {}): Promise<TaskStat> {
    text("addr", peer);
    text("taskId", taskId);
    requireOptions("statTask", options, statTaskChecks);
    const { kind = "standard" } = options;
    const observed = { name: "stat_task", taskId, kind } as const;
    return this.call(
      peer,
      `the length of task ${taskId}`,
      options,
      observed,
      async (client, scope, _addr, operation) => {
        const stat = await client.statTask(taskId, kind, scope, operation);
        scope.finish();
        return stat;
      },
    );
  }

  /**
   * Yields the pieces of a task that a peer has, then each new piece as the peer receives it. Ends
   * when the peer has announced all requested pieces, or has the complete task. Leaving the loop
   * early cancels the call.
   *
   * More than 50,000 piece numbers are split into several concurrent calls, so their pieces come in
   * any order. Each announcement must arrive within `pieceTimeout`. For a task that grows slowly,
   * set `stallTimeout` to the value of `pieceTimeout`.
   *
   * Throws the errors of {@link downloadPiece}, among them:
   * - `ProtocolViolation`: the peer announces a piece that was not requested, or that contradicts
   *   the task or another piece;
   * - `LimitExceeded`: a piece exceeds `maxPieceLength` or ends beyond 2^53 - 1, or the peer
   *   announces over a million pieces;
   * - `RemoteInternal`: a stock peer does not have the task.
   */
  async *syncPieces(
    peer: string,
    request: SyncRequest,
    options: CallOptions = {},
  ): AsyncGenerator<AnnouncedPiece, void, void> {
    const parts = requestsFor(request);
    if (parts.length === 1) yield* this.#syncPart(peer, request, options);
    else
      yield* merged(
        (signal) => parts.map((part) => this.#syncPart(peer, part, { ...options, signal })),
        options.signal,
      );
  }

  /** Makes one call of the RPC method SyncPieces, and yields the announced pieces. */
  async *#syncPart(
    peer: string,
    request: SyncRequest,
    options: CallOptions,
  ): AsyncGenerator<AnnouncedPiece, void, void> {
    const numbers = requestedNumbers(request);
    const { pieceTimeout } = callTimeouts(options, this.#settings);
    const scopeOptions = { ...options, pieceTimeout: MAX_TIMEOUT_MS };
    const { taskId, kind = "standard" } = request;
    const observed = { name: "sync_pieces", taskId, kind } as const;
    yield* await this.call(
      peer,
      `the pieces of task ${taskId}`,
      scopeOptions,
      observed,
      (client, scope, _addr, operation) =>
        client.syncPieces(request, numbers, scope, pieceTimeout, operation),
    );
  }

  /**
   * Requests a task with the content of its pieces (RPC method DownloadTask). Current stock peers
   * serve content over gRPC in no other way. A peer without the task first fetches it from other
   * peers or from the origin.
   *
   * Resolves when the peer has sent the first message, before any piece. Each piece must arrive
   * within `pieceTimeout`.
   *
   * Rejects with the errors of {@link downloadPiece}. The iteration of the pieces throws the same
   * errors, among them:
   * - `ProtocolViolation`: a piece contradicts the task or another piece;
   * - `LengthMismatch`, `DigestMismatch`: the content of a piece differs from its announcement;
   * - `TruncatedContent`: the response ended before all pieces were received;
   * - `LimitExceeded`: a piece exceeds `maxPieceLength` or ends beyond 2^53 - 1, or the peer sends
   *   over a million pieces.
   */
  async downloadTask(
    peer: string,
    source: TaskIdentity,
    options: DownloadTaskOptions = {},
  ): Promise<TaskPieces> {
    requireRange(source, options);
    const taskId = taskIdOf(source, this.#settings.runtime.hashers);
    const { pieceTimeout } = callTimeouts(options, this.#settings);
    const scopeOptions = { ...options, pieceTimeout: MAX_TIMEOUT_MS };
    let task: StreamedTask | undefined;
    const bytes = (): number => task?.bytes ?? 0;
    const observed = {
      name: "download_task",
      taskId,
      kind: source.kind ?? "standard",
      bytes,
    } as const;
    return this.call(
      peer,
      `task ${taskId}`,
      scopeOptions,
      observed,
      async (client, scope, _addr, operation) => {
        task = await client.downloadTask(source, taskId, options, scope, pieceTimeout, operation);
        return task;
      },
    );
  }
}

/** Options of {@link GrpcDownloader.statTask}: kind of task, abort signal and timeouts. */
export interface StatTaskOptions extends CallOptions {
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind | undefined;
}

const statTaskChecks: Checks<StatTaskOptions> = { ...callChecks, kind: oneOf(...pieceKinds) };

/** Loads the client at the first call: Connect and Protobuf take most of the import time. */
function loadClient(): Promise<typeof GrpcClient> {
  return loadPart("gRPC", async () => (await import("./client.ts")).GrpcClient);
}

import {
  anyText,
  type Checks,
  fields,
  integer,
  listOf,
  oneOf,
  required,
  requireOptions,
  text,
} from "../../arguments.ts";
import { untilAborted, VortexError } from "../../errors.ts";
import { loadPart } from "../../load.ts";
import { onAbort } from "../../on-abort.ts";
import { type PieceKind, pieceKinds, unverifiedPiecesCheck } from "../../piece.ts";
import type { Clock, Timer } from "../../runtime.ts";
import { formatAddress } from "../../transport/address.ts";
import type { GrpcBinding } from "../../transport/grpc.ts";
import type { Transport } from "../../transport/transport.ts";
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
import { TcpDownloader } from "../vortex/downloader.ts";
import type { GrpcClient } from "./client.ts";
import {
  type DownloadTaskOptions,
  type FetchedPiece,
  requireRange,
  type StreamedTask,
  type TaskIdentity,
  type TaskPieces,
  taskIdOf,
} from "./download-task.ts";
import { type HeldTask, heldPieces } from "./held-task.ts";
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

  /** Fetches the pieces that peers serve over Vortex only. Created at its first use. */
  readonly #vortex: () => TcpDownloader;
  #openVortex: TcpDownloader | undefined;
  /** Resolves to true if the binding can fetch pieces over Vortex. */
  readonly #hasVortex: () => Promise<boolean>;

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
    this.#vortex = () => {
      this.#openVortex ??= tcpDownloader(binding, settings);
      return this.#openVortex;
    };
    this.#hasVortex = async () => (await binding()).tcp !== undefined;
  }

  /** Closes all connections, and waits for a pending load of the gRPC implementation. */
  override async close(): Promise<void> {
    await super.close();
    await this.#openVortex?.close();
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
   * - `NotFound`: the peer's own download of the task has failed. The peer is asked for that after
   *   each 10 s without an announcement, since dfdaemon leaves its response open;
   * - `RemoteInternal`: a stock peer does not have the task.
   *
   * dfdaemon also ends its response without all pieces, if its download of a range is complete.
   */
  async *syncPieces(
    peer: string,
    request: SyncRequest,
    options: CallOptions = {},
  ): AsyncGenerator<AnnouncedPiece, void, void> {
    text("addr", peer);
    requireOptions("syncPieces", request, syncRequestChecks);
    requireOptions("syncPieces", options, callChecks);
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
    const { taskId, kind = "standard" } = request;
    const observed = { name: "sync_pieces", taskId, kind } as const;
    const ending = new AbortController();
    const { signal } = options;
    const unsubscribe =
      signal && !signal.aborted ? onAbort(signal, () => ending.abort(signal.reason)) : undefined;
    if (signal?.aborted) ending.abort(signal.reason);
    const scopeOptions = { ...options, signal: ending.signal, pieceTimeout: MAX_TIMEOUT_MS };
    const check = (): Promise<VortexError | undefined> =>
      this.#taskFailure(peer, taskId, kind, { ...options, signal: ending.signal });
    const watch = new SilenceWatch(this.#settings.runtime.clock, async () => {
      const failure = await check();
      if (failure !== undefined) ending.abort(failure);
    });
    try {
      const pieces = await this.call(
        peer,
        `the pieces of task ${taskId}`,
        scopeOptions,
        observed,
        (client, scope, _addr, operation) => {
          watch.start();
          return client.syncPieces(request, numbers, scope, pieceTimeout, operation);
        },
      );
      for await (const piece of pieces) {
        watch.stop();
        yield piece;
        watch.start();
      }
    } catch (error) {
      // dfdaemon answers "task … failed" for a task that has failed before the call.
      const mayHaveFailed =
        error instanceof VortexError &&
        error.code === "RemoteInternal" &&
        error.message.endsWith(" failed");
      throw (mayHaveFailed ? await check() : undefined) ?? error;
    } finally {
      watch.stop();
      // Ends a question about the state of the task that has no answer yet.
      ending.abort(new VortexError("Aborted", `the announcements of task ${taskId} have ended`));
      unsubscribe?.();
    }
  }

  /**
   * Asks a peer whether its own download of a task has failed. Resolves to the error in that case,
   * and to undefined if not or if the peer does not tell.
   */
  async #taskFailure(
    peer: string,
    taskId: string,
    kind: PieceKind,
    options: CallOptions,
  ): Promise<VortexError | undefined> {
    // Stock peers answer StatLocalTask for standard tasks only.
    if (kind !== "standard") return undefined;
    const observed = { name: "stat_task", taskId, kind } as const;
    const asked = this.call(
      peer,
      `the state of task ${taskId}`,
      options,
      observed,
      async (client, scope, _addr, operation) => {
        const failed = await client.hasFailed(taskId, scope, operation);
        scope.finish();
        return failed;
      },
    );
    if (!(await asked.catch(() => false))) return undefined;
    return new VortexError(
      "NotFound",
      `announcements of task ${taskId} ended: its download by the peer has failed`,
      { addr: peer },
    );
  }

  /**
   * Requests a task with the content of its pieces (RPC method DownloadTask). Current stock peers
   * serve content over gRPC in no other way. A peer without the task first fetches it from other
   * peers or from the origin.
   *
   * dfdaemon 1.4.1 and later sends no piece of a task that it has already. Its pieces are then
   * requested at the addresses that SyncPieces names, over Vortex on TCP. They are requested over
   * gRPC if the peer names no TCP address, or if TLS must authenticate the peer. dfdaemon then
   * answers with `RemoteUnimplemented`.
   *
   * Resolves when the peer has sent the first message, before any piece. Each piece must arrive
   * within `pieceTimeout`.
   *
   * Rejects with the errors of {@link downloadPiece}. The iteration of the pieces throws the same
   * errors, among them:
   * - `ProtocolViolation`: a piece contradicts the task or another piece;
   * - `LengthMismatch`, `DigestMismatch`: the content of a piece differs from its announcement;
   * - `TruncatedContent`: the response ended before all pieces were received;
   * - `PieceNotFound`: the peer has only a part of the task, and does not fetch the rest;
   * - `OriginFailed`: the peer could not fetch the task from its origin;
   * - `LimitExceeded`: a piece exceeds `maxPieceLength` or ends beyond 2^53 - 1, or the peer sends
   *   over a million pieces.
   */
  async downloadTask(
    peer: string,
    source: TaskIdentity,
    options: DownloadTaskOptions = {},
  ): Promise<TaskPieces> {
    text("addr", peer);
    requireOptions("downloadTask", options, downloadTaskChecks);
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
        const held = (): AsyncIterable<FetchedPiece> =>
          heldPieces(this.#heldTask(peer, source, taskId, options, scope.signal));
        task = await client.downloadTask(
          source,
          taskId,
          options,
          scope,
          pieceTimeout,
          held,
          operation,
        );
        return task;
      },
    );
  }

  /** Returns the requests for the pieces of a task that the peer has already. */
  #heldTask(
    addr: string,
    source: TaskIdentity,
    taskId: string,
    { range, signal: _signal, unverifiedPieces, ...timeouts }: DownloadTaskOptions,
    signal: AbortSignal,
  ): HeldTask {
    const { kind = "standard" } = source;
    const { hostId, concurrentPieceCount } = this.#settings;
    const options = { ...timeouts, signal };
    return {
      addr,
      taskId,
      kind,
      range,
      concurrentPieceCount,
      stat: () => this.statTask(addr, taskId, { ...options, kind }),
      sync: (interestedPieceNumbers, { contentLength, pieceLength }) =>
        this.syncPieces(
          addr,
          { taskId, hostId, kind, interestedPieceNumbers, contentLength, pieceLength },
          options,
        ),
      fetch: async ({ number, tcpAddr }) => {
        const request = { ...options, taskId, number, kind, unverifiedPieces };
        return tcpAddr !== undefined && (await this.#hasVortex())
          ? this.#vortex().downloadPiece({ ...request, addr: tcpAddr })
          : this.downloadPiece({ ...request, addr });
      },
    };
  }
}

/** Time in ms without an announcement after which a peer is asked for the state of its task. */
const SILENCE_MS = 10_000;

/** Calls a function after each {@link SILENCE_MS} between {@link start} and {@link stop}. */
class SilenceWatch {
  readonly #clock: Clock;
  readonly #onSilence: () => Promise<void>;
  #timer: Timer | undefined;

  constructor(clock: Clock, onSilence: () => Promise<void>) {
    this.#clock = clock;
    this.#onSilence = onSilence;
  }

  start(): void {
    this.#timer?.cancel();
    const timer = this.#clock.setTimer(() => {
      void this.#onSilence().then(() => {
        if (this.#timer === timer) this.start();
      });
    }, SILENCE_MS);
    this.#timer = timer;
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}

/** Creates the downloader of pieces that peers serve over Vortex only. */
function tcpDownloader(binding: GrpcBindingLoader, settings: DownloaderSettings): TcpDownloader {
  const load = once(async (): Promise<Transport> => {
    const { tcp } = await binding();
    if (tcp === undefined)
      throw new VortexError("Internal", "pieces over TCP: expected a transport, got none");
    return tcp();
  });
  return new TcpDownloader(load, settings, async () => {
    const transport = await load().catch(() => undefined);
    await transport?.close?.();
  });
}

/** Returns a function that calls `load` once, and returns the same promise each time. */
function once<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | undefined;
  return () => {
    loading ??= load();
    return loading;
  };
}

/** Options of {@link GrpcDownloader.statTask}: kind of task, abort signal and timeouts. */
export interface StatTaskOptions extends CallOptions {
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind | undefined;
}

const downloadTaskChecks: Checks<DownloadTaskOptions> = {
  ...callChecks,
  // `requireRange` checks its bounds.
  range: fields({ start: integer(0), end: integer(0) }),
  unverifiedPieces: unverifiedPiecesCheck,
};

const syncRequestChecks: Checks<SyncRequest> = {
  taskId: required(anyText),
  hostId: required(anyText),
  kind: oneOf(...pieceKinds),
  interestedPieceNumbers: listOf(integer(0, 0xffffffff)),
  contentLength: integer(0),
  pieceLength: integer(1),
};

const statTaskChecks: Checks<StatTaskOptions> = { ...callChecks, kind: oneOf(...pieceKinds) };

/** Loads the client at the first call: Connect and Protobuf take most of the import time. */
function loadClient(): Promise<typeof GrpcClient> {
  return loadPart("gRPC", async () => (await import("./client.ts")).GrpcClient);
}

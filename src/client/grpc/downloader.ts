import type { DescMessage } from "@bufbuild/protobuf";
import { type Client, createClient } from "@connectrpc/connect";
import { VortexError } from "../../errors.ts";
import { DfdaemonUpload } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { Piece, PieceKind } from "../../piece.ts";
import type { Operation } from "../../telemetry.ts";
import { parseAddress } from "../../transport/address.ts";
import type { GrpcBinding, GrpcCallBounds, GrpcConnection } from "../../transport/grpc.ts";
import { type PieceClient, PooledDownloader } from "../call/pooled-downloader.ts";
import type { CallScope } from "../call/scope.ts";
import { callTimeouts, MAX_TIMEOUT_MS } from "../call/settings.ts";
import type { CallOptions, DownloaderSettings, PieceRequest } from "../downloader.ts";
import { merged } from "../merged.ts";
import { acceptAnswer, type PieceAnswer } from "./download-piece.ts";
import {
  type DownloadTaskOptions,
  downloadCall,
  downloadSchema,
  requireRange,
  StreamedTask,
  type TaskIdentity,
  type TaskPieces,
  taskIdOf,
} from "./download-task.ts";
import { callFailure } from "./failure.ts";
import { exceedsOverhead, MAX_MESSAGES } from "./message.ts";
import { PieceLayout } from "./piece-layout.ts";
import {
  acceptLocalStat,
  acceptScheduledStat,
  type ScheduledTask,
  type TaskStat,
} from "./stat-task.ts";
import {
  type AnnouncedPiece,
  announcedAddresses,
  requestedNumbers,
  requestsFor,
  type SyncRequest,
  syncCall,
} from "./sync-pieces.ts";

export type {
  DownloadTaskOptions,
  FetchedPiece,
  TaskIdentity,
  TaskPieces,
} from "./download-task.ts";
export type { TaskStat } from "./stat-task.ts";
export type { AnnouncedPiece, SyncRequest } from "./sync-pieces.ts";

/** Loads a binding at first use, so that a missing one fails the call and not the import. */
export type GrpcBindingLoader = () => Promise<GrpcBinding>;

/**
 * `Downloader` over the Dragonfly API (`dfdaemon.v2.DfdaemonUpload`), with a connection pool.
 *
 * A piece is one message, so it is held in memory as a whole. Thus `downloadPiece` resolves after
 * the message has arrived and the digests of its content and metadata are verified.
 */
export class GrpcDownloader extends PooledDownloader<GrpcClient> {
  readonly #settings: DownloaderSettings;

  constructor(binding: GrpcBindingLoader, settings: DownloaderSettings) {
    super(
      async (addr, signal) => GrpcClient.connect(await binding(), addr, settings, signal),
      settings,
    );
    this.#settings = settings;
  }

  /**
   * Asks a peer for the content length and piece length of a task. `pieceTimeout` and
   * `stallTimeout` limit the call.
   *
   * Rejects like {@link downloadPiece}; also with `NotFound` if the peer does not know the length
   * of the task yet.
   */
  statTask(peer: string, taskId: string, options: StatTaskOptions = {}): Promise<TaskStat> {
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
   * Lists the pieces of a task that a peer has, and waits for those that it receives later. Ends
   * when the peer has announced all requested pieces, or its task is complete. Leaving the
   * iteration early ends the call.
   *
   * More than 50,000 numbers are split into several concurrent calls, whose announcements come in
   * any order. The wait for each announcement is limited by `pieceTimeout`. For a slowly growing
   * task, set `stallTimeout` to the same value.
   *
   * Throws the errors of {@link downloadPiece}, among them:
   * - `ProtocolViolation`: announcements that were not requested, or contradict the task or each
   *   other;
   * - `LimitExceeded`: pieces over `maxPieceLength` or beyond 2^53, or over a million pieces;
   * - `RemoteInternal`: a stock peer without the task.
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

  /** Makes one call of SyncPieces. */
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
   * Requests a whole task with the content of its pieces (DownloadTask), the only way in which
   * current stock peers serve content over gRPC. A peer without the task fetches it first, from
   * other peers or the origin. Resolves with the started message of the peer. The wait for each
   * piece is limited by `pieceTimeout`.
   *
   * Rejects, and its iteration throws, with the errors of {@link downloadPiece}, among them:
   * - `ProtocolViolation`: pieces that contradict the task;
   * - `LengthMismatch`, `DigestMismatch`: content that differs from its announcement;
   * - `TruncatedContent`: the end of the answer before all pieces have come;
   * - `LimitExceeded`: as with {@link syncPieces}.
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

/** Options of {@link GrpcDownloader.statTask}. */
export interface StatTaskOptions extends CallOptions {
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind;
}

/** Client of the Dragonfly API on one connection. */
export class GrpcClient implements PieceClient {
  /** Address of the peer, `host:port`. */
  readonly addr: string;
  readonly closed: Promise<unknown>;
  readonly #connection: GrpcConnection;
  readonly #settings: DownloaderSettings;
  #closing = false;

  constructor(connection: GrpcConnection, addr: string, settings: DownloaderSettings) {
    this.#connection = connection;
    this.#settings = settings;
    this.addr = addr;
    this.closed = connection.closed;
  }

  /** Connects to a peer. Rejects like {@link GrpcBinding.dial}. */
  static async connect(
    binding: GrpcBinding,
    addr: string,
    settings: DownloaderSettings,
    signal?: AbortSignal,
  ): Promise<GrpcClient> {
    // The length field of a gRPC message has 32 bits.
    const maxMessageLength = Math.min(
      settings.maxPieceLength + settings.maxMetadataLength,
      0xffffffff,
    );
    const connection = await binding.dial(parseAddress(addr), {
      maxMessageLength,
      ...(signal && { signal }),
    });
    return new GrpcClient(connection, addr, settings);
  }

  /** Requests a piece. A rejection leaves `scope` open, so that the call can be retried in it. */
  async downloadPiece(
    request: PieceRequest,
    scope: CallScope,
    operation?: Operation,
  ): Promise<Piece> {
    const { kind = "standard", hostId, taskId, number } = request;
    const method = pieceMethods[kind];
    const bounds = contentBounds(
      scope,
      DfdaemonUpload.method[method].output,
      this.#settings.maxMetadataLength,
    );
    const answer = await this.#call<PieceAnswer>(
      scope,
      operation,
      bounds,
      PIECES_UNSERVED,
      (client, connectOptions) =>
        client[method]({ hostId, taskId, pieceNumber: number }, connectOptions),
    );
    return acceptAnswer(answer, request, scope, this.#settings);
  }

  /**
   * Asks for the lengths of a task and its pieces by StatLocalTask, which a peer answers from its
   * own storage. Falls back to StatTask, or its variant for the kind, where the peer does not serve
   * StatLocalTask (dfdaemon before 1.2.0) or not for this kind. Those calls ask the peer's
   * scheduler, which peers of this library do not have.
   */
  async statTask(
    taskId: string,
    kind: PieceKind,
    scope: CallScope,
    operation?: Operation,
  ): Promise<TaskStat> {
    try {
      const bounds = metadataBounds(scope, DfdaemonUpload.method.statLocalTask.output);
      const answer = await this.#call(
        scope,
        operation,
        bounds,
        TASKS_UNSERVED,
        (client, connectOptions) => client.statLocalTask({ taskId }, connectOptions),
      );
      return acceptLocalStat(answer, this.addr);
    } catch (error) {
      const method = statMethods[kind];
      const code = error instanceof VortexError ? error.code : undefined;
      const notServed =
        code === "RemoteUnimplemented" || (code === "NotFound" && kind !== "standard");
      if (!notServed || method === undefined) throw error;
      const bounds = metadataBounds(scope, DfdaemonUpload.method[method].output);
      const answer = await this.#call<ScheduledTask>(
        scope,
        operation,
        bounds,
        TASKS_UNSERVED,
        (client, connectOptions) => client[method]({ taskId }, connectOptions),
      );
      return acceptScheduledStat(answer, this.addr);
    }
  }

  /**
   * Starts a SyncPieces call. Resolves at the first announcement or the end of the answer, so that
   * a dead pooled connection still rejects and the call can be retried.
   */
  async syncPieces(
    request: SyncRequest,
    numbers: ReadonlySet<number> | undefined,
    scope: CallScope,
    pieceTimeout: number,
    operation?: Operation,
  ): Promise<AsyncGenerator<AnnouncedPiece, void, void>> {
    const { addr } = this;
    const { contentLength, pieceLength } = request;
    const { maxPieceLength } = this.#settings;
    const layout = new PieceLayout({ addr, maxPieceLength, contentLength, pieceLength, numbers });
    const answers = this.#stream(
      scope,
      operation,
      METADATA_BOUNDS,
      pieceTimeout,
      (client, connectOptions) => syncCall(client, request, connectOptions),
    );
    const first = await answers.next();
    return (async function* (): AsyncGenerator<AnnouncedPiece, void, void> {
      try {
        for (let next = first; !next.done; next = await answers.next()) {
          yield { ...layout.accept(next.value), ...announcedAddresses(next.value, addr) };
        }
        scope.finish();
      } catch (error) {
        throw scope.end(error);
      } finally {
        scope.fail(new VortexError("Aborted", "the iteration of announced pieces was ended early"));
      }
    })();
  }

  /** Starts a DownloadTask call. Resolves with the started message of the peer. */
  async downloadTask(
    source: TaskIdentity,
    taskId: string,
    options: DownloadTaskOptions,
    scope: CallScope,
    pieceTimeout: number,
    operation?: Operation,
  ): Promise<StreamedTask> {
    const bounds = contentBounds(scope, downloadSchema(source), METADATA_BOUNDS.maxMessageLength);
    const messages = this.#stream(
      scope,
      operation,
      bounds,
      pieceTimeout,
      (client, connectOptions) => downloadCall(client, source, options, connectOptions),
    );
    const { addr } = this;
    return StreamedTask.begin(messages, {
      taskId,
      range: options.range,
      scope,
      settings: this.#settings,
      addr,
    });
  }

  /** Closes the connection. */
  close(): Promise<void> {
    this.#closing = true;
    return this.#connection.close();
  }

  /**
   * Makes a unary call. The stall timeout applies to the time between bytes of the answer.
   *
   * @param unserved message for a call that the peer does not serve
   */
  #call<T>(
    scope: CallScope,
    operation: Operation | undefined,
    bounds: GrpcCallBounds,
    unserved: string,
    call: (client: Client<typeof DfdaemonUpload>, connectOptions: ConnectCall) => Promise<T>,
  ): Promise<T> {
    const arrivals = new Arrivals();
    const client = this.#client(arrivals, { ...bounds, signal: scope.signal });
    return this.#received(call(client, connectCall(scope, operation)), arrivals, scope, unserved);
  }

  /**
   * Makes a server-streaming call. For each message, the stall timeout applies to the time between
   * bytes, and `pieceTimeout` in ms to the whole message.
   */
  async *#stream<T>(
    scope: CallScope,
    operation: Operation | undefined,
    bounds: GrpcCallBounds,
    pieceTimeout: number,
    call: (client: Client<typeof DfdaemonUpload>, connectOptions: ConnectCall) => AsyncIterable<T>,
  ): AsyncGenerator<T, void, void> {
    const arrivals = new Arrivals();
    const client = this.#client(arrivals, { ...bounds, signal: scope.signal });
    const answers = call(client, connectCall(scope, operation))[Symbol.asyncIterator]();
    for (;;) {
      const timer = this.#settings.runtime.clock.setTimer(() => {
        scope.fail(
          new VortexError(
            "PieceTimeout",
            `message of the answer: not complete within ${pieceTimeout} ms (pieceTimeout)`,
          ),
        );
      }, pieceTimeout);
      try {
        const answer = await this.#received(answers.next(), arrivals, scope, TASKS_UNSERVED);
        if (answer.done) return;
        timer.cancel();
        yield answer.value;
      } finally {
        timer.cancel();
      }
    }
  }

  #client(arrivals: Arrivals, bounds: GrpcCallBounds): Client<typeof DfdaemonUpload> {
    return createClient(DfdaemonUpload, this.#connection.transport(arrivals.report, bounds));
  }

  /** Awaits an answer under the stall timeout, which restarts with every received byte. */
  async #received<T>(
    answer: Promise<T>,
    arrivals: Arrivals,
    scope: CallScope,
    unserved: string,
  ): Promise<T> {
    const settled = arrivals.until(answer);
    try {
      while (await scope.waitFor(arrivals.next())) {
        // Bytes have arrived: restart the stall timeout.
      }
      return await settled;
    } catch (error) {
      if (scope.failure !== undefined) throw scope.failure;
      if (this.#closing)
        throw new VortexError("Closed", "the downloader is closed", {
          cause: error,
          addr: this.addr,
        });
      throw callFailure(error, this.addr, this.#connection.open, unserved);
    }
  }
}

/**
 * Bounds of answers without content. A scheduler's answer lists the pieces of a task. Stock
 * Dragonfly cuts a task into up to 500 pieces before they reach their maximum length; 512 KiB hold
 * some 4,000.
 */
const METADATA_BOUNDS = { maxMessageLength: 512 * 1024 } as const satisfies GrpcCallBounds;

function metadataBounds(scope: CallScope, schema: DescMessage): GrpcCallBounds {
  return { ...METADATA_BOUNDS, ...contentBounds(scope, schema, METADATA_BOUNDS.maxMessageLength) };
}

/** Makes the bounds of an answer with content and at most `maxOverhead` other bytes. */
function contentBounds(scope: CallScope, schema: DescMessage, maxOverhead: number): GrpcCallBounds {
  return {
    onMessage(chunks) {
      if (!exceedsOverhead(chunks, schema, maxOverhead)) return;
      const error = new VortexError(
        "LimitExceeded",
        `answer without its content: expected at most ${maxOverhead} bytes in at most ` +
          `${MAX_MESSAGES} messages, got more; maxMetadataLength sets the bytes for pieces`,
      );
      scope.fail(error);
      throw error;
    },
  };
}

/** Options of a call in Connect. */
interface ConnectCall {
  readonly signal: AbortSignal;
  /** Headers with the trace context of the operation; absent without telemetry. */
  readonly headers?: Readonly<Record<string, string>>;
}

function connectCall({ signal }: CallScope, operation: Operation | undefined): ConnectCall {
  const headers = operation?.headers?.();
  return headers === undefined ? { signal } : { signal, headers };
}

/** Methods that fetch a piece, by the kind of its task. */
const pieceMethods = {
  standard: "downloadPiece",
  persistent: "downloadPersistentPiece",
  "persistent-cache": "downloadPersistentCachePiece",
  cache: "downloadCachePiece",
} as const satisfies Record<PieceKind, string>;

/** Methods that ask the scheduler about a task, by its kind. */
const statMethods = {
  standard: "statTask",
  persistent: "statPersistentTask",
  "persistent-cache": "statPersistentCacheTask",
  // Stock peers have a method for cache tasks, but every call of it fails.
  cache: undefined,
} as const satisfies Record<PieceKind, string | undefined>;

const PIECES_UNSERVED =
  "the peer does not serve pieces over gRPC, like dfdaemon after 1.2.1 " +
  '(use protocol "tcp" or "quic")';
const TASKS_UNSERVED = "the peer does not serve this call about tasks over gRPC";

/** Signals the arrival of bytes of an answer, until the answer is complete. */
class Arrivals {
  #arrived = false;
  #ended = false;
  #wake: (() => void) | undefined;

  /** Reports that bytes have arrived. */
  readonly report = (): void => {
    this.#arrived = true;
    this.#wake?.();
  };

  /** Starts to wait for `answer`: {@link next} resolves to false once it has settled. */
  until<T>(answer: Promise<T>): Promise<T> {
    this.#ended = false;
    return answer.finally(() => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  /** Resolves to true when bytes have arrived since the last call, to false at the end. */
  async next(): Promise<boolean> {
    if (!this.#arrived && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#arrived = false;
    return !this.#ended;
  }
}

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
import { exceedsFields, MAX_MESSAGES } from "./message.ts";
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

/** Loads a binding when it is first needed, so that one that is missing fails the call and not the import. */
export type GrpcBindingLoader = () => Promise<GrpcBinding>;

/**
 * A `Downloader` over the Dragonfly API (`dfdaemon.v2.DfdaemonUpload`), with a pool of connections by address.
 *
 * A piece comes as one message, so all of it is in memory, and `downloadPiece` resolves only when it has come and both its
 * digests agreed.
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
   * Asks a peer how a task that it has is cut into pieces. `pieceTimeout` and `stallTimeout` bound the call.
   *
   * Rejects as {@link downloadPiece} does; with `NotFound` also when the peer does not know the task's length yet.
   */
  statTask(peer: string, taskId: string, options: StatTaskOptions = {}): Promise<TaskStat> {
    const { kind = "standard" } = options;
    const told = { name: "stat_task", taskId, kind } as const;
    return this.call(
      peer,
      `the length of task ${taskId}`,
      options,
      told,
      async (client, scope, _addr, operation) => {
        const stat = await client.statTask(taskId, kind, scope, operation);
        scope.finish();
        return stat;
      },
    );
  }

  /**
   * Asks a peer which pieces of a task it has, and hears of those that come, as they come. Ends when the peer has no more to
   * tell: it told of all that were asked for, or its task is complete. More than 50,000 numbers are asked for in several calls
   * at a time, and announcements of different calls come in any order. `pieceTimeout` bounds the wait for each announcement;
   * for a task that grows slowly, `stallTimeout` is to be as long. Whoever leaves the iteration early ends the call.
   *
   * Throws as {@link downloadPiece} rejects: `ProtocolViolation` for announcements that do not fit the task or each other, or
   * were not asked for; `LimitExceeded` for pieces longer than `maxPieceLength` or beyond 2^53, and for more than a million of
   * them; `Stalled`. A stock peer that does not have the task is `RemoteInternal`.
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

  /** One call of SyncPieces. */
  async *#syncPart(
    peer: string,
    request: SyncRequest,
    options: CallOptions,
  ): AsyncGenerator<AnnouncedPiece, void, void> {
    const numbers = requestedNumbers(request);
    const { pieceTimeout } = callTimeouts(options, this.#settings);
    const whole = { ...options, pieceTimeout: MAX_TIMEOUT_MS };
    const { taskId, kind = "standard" } = request;
    const told = { name: "sync_pieces", taskId, kind } as const;
    yield* await this.call(
      peer,
      `the pieces of task ${taskId}`,
      whole,
      told,
      (client, scope, _addr, operation) =>
        client.syncPieces(request, numbers, scope, pieceTimeout, operation),
    );
  }

  /**
   * Has a peer send a whole task, with the content of its pieces: current stock peers serve content over gRPC in no other way.
   * One that does not have the task fetches it first, from other peers or the origin. Resolves when the peer tells what the
   * task is. `pieceTimeout` bounds the wait for each piece.
   *
   * Rejects, and its iteration throws, as {@link downloadPiece} does; with `ProtocolViolation` for pieces that do not fit the
   * task, `LengthMismatch` and `DigestMismatch` for content that is not what was announced, `TruncatedContent` when the peer
   * ends before all pieces came, `LimitExceeded` as {@link syncPieces}.
   */
  async downloadTask(
    peer: string,
    source: TaskIdentity,
    options: DownloadTaskOptions = {},
  ): Promise<TaskPieces> {
    requireRange(source, options);
    const taskId = taskIdOf(source, this.#settings.runtime.hashers);
    const { pieceTimeout } = callTimeouts(options, this.#settings);
    const whole = { ...options, pieceTimeout: MAX_TIMEOUT_MS };
    let task: StreamedTask | undefined;
    const bytes = (): number => task?.bytes ?? 0;
    const told = { name: "download_task", taskId, kind: source.kind ?? "standard", bytes } as const;
    return this.call(
      peer,
      `task ${taskId}`,
      whole,
      told,
      async (client, scope, _addr, operation) => {
        task = await client.downloadTask(source, taskId, options, scope, pieceTimeout, operation);
        return task;
      },
    );
  }
}

/** How a peer is asked about a task. */
export interface StatTaskOptions extends CallOptions {
  /** Default `standard`. */
  readonly kind?: PieceKind;
}

/** A connection to one peer that serves the Dragonfly API. */
export class GrpcClient implements PieceClient {
  /** The peer, `host:port`. */
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

  /** Connects to a peer. Rejects as {@link GrpcBinding.dial} does. */
  static async connect(
    binding: GrpcBinding,
    addr: string,
    settings: DownloaderSettings,
    signal?: AbortSignal,
  ): Promise<GrpcClient> {
    // gRPC writes a message's length in 32 bits.
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

  /** Asks for a piece; the scope is the life of the call, and stays open when this throws, so that it can be tried again. */
  async downloadPiece(
    request: PieceRequest,
    scope: CallScope,
    operation?: Operation,
  ): Promise<Piece> {
    const { kind = "standard", hostId, taskId, number } = request;
    const method = pieceMethods[kind];
    const most = this.#settings.maxMetadataLength;
    const bounds = contentBounds(scope, DfdaemonUpload.method[method].output, most);
    const answer = await this.#call<PieceAnswer>(
      scope,
      operation,
      bounds,
      unservedPieces,
      (client, made) => client[method]({ hostId, taskId, pieceNumber: number }, made),
    );
    return acceptAnswer(answer, request, scope, this.#settings);
  }

  /**
   * Asks how a task is cut into pieces, by StatLocalTask: the peer answers from what it has itself, with both lengths. StatTask
   * and its twins make it ask its scheduler, which a peer of this project does not have. They are the next best where the
   * first is not served (dfdaemon before 1.2.0), and for the kinds that stock peers do not answer it for.
   */
  async statTask(
    taskId: string,
    kind: PieceKind,
    scope: CallScope,
    operation?: Operation,
  ): Promise<TaskStat> {
    try {
      const bounds = toldBounds(scope, DfdaemonUpload.method.statLocalTask.output);
      const answer = await this.#call(scope, operation, bounds, unservedTasks, (client, made) =>
        client.statLocalTask({ taskId }, made),
      );
      return acceptLocalStat(answer, this.addr);
    } catch (error) {
      const method = statMethods[kind];
      const code = error instanceof VortexError ? error.code : undefined;
      const elsewhere =
        code === "RemoteUnimplemented" || (code === "NotFound" && kind !== "standard");
      if (!elsewhere || method === undefined) throw error;
      const bounds = toldBounds(scope, DfdaemonUpload.method[method].output);
      const answer = await this.#call<ScheduledTask>(
        scope,
        operation,
        bounds,
        unservedTasks,
        (client, made) => client[method]({ taskId }, made),
      );
      return acceptScheduledStat(answer, this.addr);
    }
  }

  /** Resolves when the first announcement has come, or the end: a connection that died unnoticed shows before that. */
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
    const answers = this.#stream(scope, operation, TOLD, pieceTimeout, (client, made) =>
      syncCall(client, request, made),
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
        scope.fail(new VortexError("Aborted", "the announcements of pieces were left early"));
      }
    })();
  }

  /** Resolves when the peer tells what the task is. */
  async downloadTask(
    source: TaskIdentity,
    taskId: string,
    options: DownloadTaskOptions,
    scope: CallScope,
    pieceTimeout: number,
    operation?: Operation,
  ): Promise<StreamedTask> {
    const bounds = contentBounds(scope, downloadSchema(source), TOLD.maxMessageLength);
    const messages = this.#stream(scope, operation, bounds, pieceTimeout, (client, made) =>
      downloadCall(client, source, options, made),
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

  /** Ends the connection. */
  close(): Promise<void> {
    this.#closing = true;
    return this.#connection.close();
  }

  /** Makes a call with one answer, for as long as bytes of it keep coming. */
  #call<T>(
    scope: CallScope,
    operation: Operation | undefined,
    bounds: GrpcCallBounds,
    unserved: string,
    call: (client: Client<typeof DfdaemonUpload>, made: MadeCall) => Promise<T>,
  ): Promise<T> {
    const arrivals = new Arrivals();
    const client = this.#client(arrivals, { ...bounds, signal: scope.signal });
    return this.#received(call(client, madeCall(scope, operation)), arrivals, scope, unserved);
  }

  /** Makes a call with many answers, each of which is waited for for as long as bytes come, and `pieceTimeout` at most. */
  async *#stream<T>(
    scope: CallScope,
    operation: Operation | undefined,
    bounds: GrpcCallBounds,
    pieceTimeout: number,
    call: (client: Client<typeof DfdaemonUpload>, made: MadeCall) => AsyncIterable<T>,
  ): AsyncGenerator<T, void, void> {
    const arrivals = new Arrivals();
    const client = this.#client(arrivals, { ...bounds, signal: scope.signal });
    const answers = call(client, madeCall(scope, operation))[Symbol.asyncIterator]();
    for (;;) {
      const timer = this.#settings.runtime.clock.setTimer(() => {
        const message = `nothing more of the answer was complete within ${pieceTimeout} ms`;
        scope.fail(new VortexError("PieceTimeout", message));
      }, pieceTimeout);
      try {
        const answer = await this.#received(answers.next(), arrivals, scope, unservedTasks);
        if (answer.done) return;
        timer.cancel();
        yield answer.value;
      } finally {
        timer.cancel();
      }
    }
  }

  #client(arrivals: Arrivals, bounds: GrpcCallBounds): Client<typeof DfdaemonUpload> {
    return createClient(DfdaemonUpload, this.#connection.transport(arrivals.note, bounds));
  }

  async #received<T>(
    answer: Promise<T>,
    arrivals: Arrivals,
    scope: CallScope,
    unserved: string,
  ): Promise<T> {
    const settled = arrivals.until(answer);
    try {
      while (await scope.waitFor(arrivals.next())) {
        // More has come: the wait for the next bytes starts anew.
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
 * For answers without content. Those of a scheduler list the pieces of a task, of which stock Dragonfly makes 500 before they are as long
 * as they get: in 512 KiB there is room for some 4,000.
 */
const TOLD = { maxMessageLength: 512 * 1024 } as const satisfies GrpcCallBounds;

function toldBounds(scope: CallScope, schema: DescMessage): GrpcCallBounds {
  return { ...TOLD, ...contentBounds(scope, schema, TOLD.maxMessageLength) };
}

/** For answers with content, beside which there are `most` bytes. */
function contentBounds(scope: CallScope, schema: DescMessage, most: number): GrpcCallBounds {
  return {
    onMessage(chunks) {
      if (!exceedsFields(chunks, schema, most)) return;
      const limits = `${most} bytes or ${MAX_MESSAGES} messages`;
      const error = new VortexError(
        "LimitExceeded",
        `an answer with more than ${limits} beside its content`,
      );
      scope.fail(error);
      throw error;
    },
  };
}

/** What Connect is told of a call. */
interface MadeCall {
  readonly signal: AbortSignal;
  /** Of the trace that the call belongs to, if somebody traces. */
  readonly headers?: Readonly<Record<string, string>>;
}

function madeCall({ signal }: CallScope, operation: Operation | undefined): MadeCall {
  const headers = operation?.headers?.();
  return headers === undefined ? { signal } : { signal, headers };
}

/** DownloadPiece and its twins, by the kind of piece. */
const pieceMethods = {
  standard: "downloadPiece",
  persistent: "downloadPersistentPiece",
  "persistent-cache": "downloadPersistentCachePiece",
  cache: "downloadCachePiece",
} as const satisfies Record<PieceKind, string>;

/** StatTask and its twins, by the kind of task. */
const statMethods = {
  standard: "statTask",
  persistent: "statPersistentTask",
  "persistent-cache": "statPersistentCacheTask",
  // Stock peers have a call for it, and fail in it.
  cache: undefined,
} as const satisfies Record<PieceKind, string | undefined>;

const unservedPieces =
  'the peer does not serve pieces over gRPC, as dfdaemon after 1.2.1 does not: use protocol "tcp" or "quic"';
const unservedTasks = "the peer does not serve this call about tasks over gRPC";

/** Tells that something has come, since it was last asked, until the end. */
class Arrivals {
  #arrived = false;
  #ended = false;
  #wake: (() => void) | undefined;

  readonly note = (): void => {
    this.#arrived = true;
    this.#wake?.();
  };

  /** Starts anew: the end is when `answer` settles. */
  until<T>(answer: Promise<T>): Promise<T> {
    this.#ended = false;
    return answer.finally(() => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  /** True when something has come, false at the end. */
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

import type { DescMessage } from "@bufbuild/protobuf";
import { type Client, createClient } from "@connectrpc/connect";
import { VortexError } from "../../errors.ts";
import { DfdaemonUpload } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { Piece, PieceKind } from "../../piece.ts";
import type { Operation } from "../../telemetry.ts";
import { type Address, formatAddress } from "../../transport/address.ts";
import type { GrpcBinding, GrpcCallBounds, GrpcConnection } from "../../transport/grpc.ts";
import { isMarked } from "../../transport/peer-marker.ts";
import type { PieceClient } from "../call/pooled-downloader.ts";
import type { CallScope } from "../call/scope.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";
import type { TaskStat } from "../task-stat.ts";
import { acceptAnswer, type PieceAnswer } from "./download-piece.ts";
import {
  type DownloadTaskOptions,
  downloadCall,
  type FetchedPiece,
  StreamedTask,
  type TaskIdentity,
} from "./download-task.ts";
import { callFailure } from "./failure.ts";
import { exceedsOverhead, MAX_MESSAGES } from "./message.ts";
import { PieceLayout } from "./piece-layout.ts";
import { acceptLocalStat, acceptScheduledStat, type ScheduledTask } from "./stat-task.ts";
import {
  type AnnouncedPiece,
  announcedAddresses,
  type SyncRequest,
  syncCall,
} from "./sync-pieces.ts";

/** Client of the Dragonfly gRPC API on one connection. */
export class GrpcClient implements PieceClient {
  /** Address of the peer, `host:port`. */
  readonly addr: string;
  readonly closed: Promise<unknown>;
  readonly #remote: Address;
  readonly #connection: GrpcConnection;
  readonly #settings: DownloaderSettings;
  #closing = false;

  constructor(connection: GrpcConnection, remote: Address, settings: DownloaderSettings) {
    this.#connection = connection;
    this.#settings = settings;
    this.#remote = remote;
    this.addr = formatAddress(remote);
    this.closed = connection.closed;
  }

  /** Connects to a peer. Rejects with the errors of {@link GrpcBinding.dial}. */
  static async connect(
    binding: GrpcBinding,
    remote: Address,
    settings: DownloaderSettings,
    signal?: AbortSignal,
  ): Promise<GrpcClient> {
    // The length field of a gRPC message has 32 bits.
    const maxMessageLength = Math.min(
      settings.maxPieceLength + settings.maxMetadataLength,
      0xffffffff,
    );
    const connection = await binding.dial(remote, {
      maxMessageLength,
      ...(signal && { signal }),
    });
    return new GrpcClient(connection, remote, settings);
  }

  /**
   * Requests a piece. If it rejects, `scope` stays open, so that the call can be retried with it.
   */
  async downloadPiece(
    request: PieceRequest,
    scope: CallScope,
    operation?: Operation,
  ): Promise<Piece> {
    const { kind = "standard", hostId = this.#settings.hostId, taskId, number } = request;
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
   * Requests the length of a task and of its pieces by the RPC method StatLocalTask. A peer
   * responds to it from its own storage.
   *
   * Falls back to StatTask, or its variant for the kind of task, if the peer does not serve
   * StatLocalTask for this kind. Versions of dfdaemon before 1.2.0 do not serve StatLocalTask at
   * all.
   *
   * A peer responds to StatTask by asking its scheduler. Peers of this library have no scheduler.
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
   * Starts a call of the RPC method SyncPieces. Resolves when the first announcement or the end of
   * the response has arrived. So a dead connection of the pool makes it reject, and the call can be
   * retried.
   */
  async syncPieces(
    request: SyncRequest,
    numbers: ReadonlySet<number> | undefined,
    scope: CallScope,
    pieceTimeout: number,
    operation?: Operation,
  ): Promise<AsyncGenerator<AnnouncedPiece, void, void>> {
    const addr = this.addr;
    const remote = this.#remote;
    const { contentLength, pieceLength } = request;
    const { maxPieceLength } = this.#settings;
    const layout = new PieceLayout({ addr, maxPieceLength, contentLength, pieceLength, numbers });
    const response = { marked: false };
    const onHeader = (headers: Headers): void => {
      response.marked = isMarked(headers);
    };
    const answers = this.#stream(
      scope,
      operation,
      METADATA_BOUNDS,
      pieceTimeout,
      (client, connectOptions) => syncCall(client, request, { ...connectOptions, onHeader }),
    );
    const first = await answers.next();
    return (async function* (): AsyncGenerator<AnnouncedPiece, void, void> {
      try {
        for (let next = first; !next.done; next = await answers.next()) {
          yield {
            ...layout.accept(next.value),
            ...announcedAddresses(next.value, remote),
            ...(response.marked && { vortexPeer: true as const }),
          };
        }
        scope.finish();
      } catch (error) {
        throw scope.end(error);
      } finally {
        scope.fail(new VortexError("Aborted", "the iteration of announced pieces was ended early"));
      }
    })();
  }

  /**
   * Returns true if the peer's own download of a task has failed, by the RPC method StatLocalTask.
   * The peer then gets no further pieces until its next attempt.
   */
  async hasFailed(taskId: string, scope: CallScope, operation?: Operation): Promise<boolean> {
    const { failedAt, finishedAt } = await this.#call(
      scope,
      operation,
      metadataBounds(scope, DfdaemonUpload.method.statLocalTask.output),
      TASKS_UNSERVED,
      (client, connectOptions) => client.statLocalTask({ taskId }, connectOptions),
    );
    return failedAt !== undefined && finishedAt === undefined;
  }

  /**
   * Starts a call of the RPC method DownloadTask. Resolves when the first message has arrived.
   *
   * @param heldPieces fetches the pieces of a task that the peer has already and does not send
   */
  async downloadTask(
    source: TaskIdentity,
    taskId: string,
    options: DownloadTaskOptions,
    scope: CallScope,
    pieceTimeout: number,
    heldPieces: () => AsyncIterable<FetchedPiece>,
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
      unverifiedPieces: options.unverifiedPieces,
      scope,
      settings: this.#settings,
      addr,
      heldPieces,
    });
  }

  /** Closes the connection to the peer. */
  close(): Promise<void> {
    this.#closing = true;
    return this.#connection.close();
  }

  /**
   * Makes a unary RPC. The stall timeout applies to the time between received bytes.
   *
   * @param unserved error message for an RPC method that the peer does not serve
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
   * Makes a server-streaming RPC, and yields the messages of the response. The stall timeout
   * applies to the time between received bytes. Each message must be complete within `pieceTimeout`
   * ms.
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

  /** Awaits a response message under the stall timeout, which restarts with every received byte. */
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
 * Limits of response messages without piece content. A scheduler's response to StatTask lists the
 * pieces of the task. Stock Dragonfly divides a task into up to 500 pieces before they reach their
 * maximum length. 512 KiB hold about 4,000 pieces.
 */
const METADATA_BOUNDS = { maxMessageLength: 512 * 1024 } as const satisfies GrpcCallBounds;

function metadataBounds(scope: CallScope, schema: DescMessage): GrpcCallBounds {
  return { ...METADATA_BOUNDS, ...contentBounds(scope, schema, METADATA_BOUNDS.maxMessageLength) };
}

/**
 * Returns the limits of a response message with piece content: at most `maxOverhead` bytes besides
 * the content.
 */
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

/** Returns the Protobuf schema of the messages in the response to {@link downloadCall}. */
function downloadSchema({ kind }: TaskIdentity): DescMessage {
  const { downloadTask, downloadPersistentTask, downloadPersistentCacheTask } =
    DfdaemonUpload.method;
  if (kind === "persistent") return downloadPersistentTask.output;
  return (kind === "persistent-cache" ? downloadPersistentCacheTask : downloadTask).output;
}

/** Options of an RPC in the Connect library. */
interface ConnectCall {
  readonly signal: AbortSignal;
  /** HTTP headers with the trace context of the operation; absent without telemetry. */
  readonly headers?: Readonly<Record<string, string>>;
}

function connectCall({ signal }: CallScope, operation: Operation | undefined): ConnectCall {
  const headers = operation?.headers?.();
  return headers === undefined ? { signal } : { signal, headers };
}

/** RPC methods that return a piece, by the kind of its task. */
const pieceMethods = {
  standard: "downloadPiece",
  persistent: "downloadPersistentPiece",
  "persistent-cache": "downloadPersistentCachePiece",
  cache: "downloadCachePiece",
} as const satisfies Record<PieceKind, string>;

/**
 * RPC methods that return the length of a task from the scheduler, by the kind of task. Undefined
 * for kind `cache`, because the method of stock peers for it always fails.
 */
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

/** Signals that bytes of a response have arrived, until the response is complete. */
class Arrivals {
  #arrived = false;
  #ended = false;
  #wake: (() => void) | undefined;

  /** Records that bytes have arrived, and resolves a pending call of {@link next}. */
  readonly report = (): void => {
    this.#arrived = true;
    this.#wake?.();
  };

  /**
   * Returns a promise that settles like `answer`. {@link next} resolves to false after it has
   * settled.
   */
  until<T>(answer: Promise<T>): Promise<T> {
    this.#ended = false;
    return answer.finally(() => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  /**
   * Resolves to true when bytes have arrived since the last call, or to false when the response is
   * complete.
   */
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

import { create, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import {
  Code,
  ConnectError,
  type ContextKey,
  createConnectRouter,
  createContextKey,
  type HandlerContext,
} from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { metadataDigest } from "../../digest/piece-metadata.ts";
import { TaskSchema } from "../../gen/common/v2/common_pb.ts";
import {
  DfdaemonUpload,
  type DownloadPersistentCacheTaskRequest,
  DownloadPersistentCacheTaskResponseSchema,
  type DownloadPersistentTaskRequest,
  DownloadPersistentTaskResponseSchema,
  DownloadPieceResponseSchema,
  type DownloadTaskRequest,
  DownloadTaskResponseSchema,
  DownloadTaskStartedResponseSchema,
} from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { hostId, peerId, persistentTaskId } from "../../ids.ts";
import { onAbort } from "../../on-abort.ts";
import type { PieceKind, PieceMetadata } from "../../piece.ts";
import type { PieceStore, StoredPiece, StoredTask } from "../../store/store.ts";
import { FairSet } from "../admission/fair-set.ts";
import type { ServerSettings } from "../admission/upload.ts";
import { Answer, reportFailure } from "./answer.ts";
import { answeredBody, pastConnect } from "./body.ts";
import {
  type Around,
  aroundPiece,
  contentBody,
  contentHead,
  envelope,
  withoutContent,
} from "./content.ts";
import { listingOf } from "./listing.ts";
import {
  localTaskMessage,
  persistentCacheTaskMessage,
  persistentTaskMessage,
  responseHeader,
  taskMessage,
} from "./messages.ts";
import {
  invalid,
  isRange,
  numbersIn,
  requireNoFile,
  requireTaskId,
  spanOf,
  standardTaskId,
  type WantedPieces,
  wantedPieces,
} from "./requests.ts";

/** Greatest request that is read, in bytes: the numbers of 50,000 pieces, at least. */
export const MAX_REQUEST_LENGTH: number = 256 * 1024;

/** What a gRPC server tells peers of itself. */
export interface GrpcServing {
  /** Port of the store's Vortex server over TCP. Default: none. */
  readonly tcpPort?: number;
  /** Port of the store's Vortex server over QUIC. Default: none. */
  readonly quicPort?: number;
  /** The IP address at which peers reach this host. Default: the one at which the asking peer reached it, see {@link reachedAt}. */
  readonly advertisedIp?: string;
  /** For the ids of this host and its peers. Default `vortex-peer`. */
  readonly hostname?: string;
}

/** The local IP address of the connection that a request came on. Whatever speaks HTTP/2 sets it with each request. */
export const reachedAt: ContextKey<string> = createContextKey("");

/** Where a request came from, see {@link networkOf}. Whatever speaks HTTP/2 sets it with each request. */
export const askedFrom: ContextKey<string> = createContextKey("");

/**
 * `dfdaemon.v2.DfdaemonUpload` over a store: DownloadPiece, DownloadTask, SyncPieces and StatTask with their twins, and
 * StatLocalTask. Only tasks that the store holds, or is getting, are served; nothing is fetched for a peer. Other calls of
 * the service are answered with UNIMPLEMENTED.
 *
 * Handlers for whatever speaks HTTP/2. A failure inside reaches `settings.onError`, and the peer as INTERNAL without
 * details. Connect would have a piece in memory three times (content, message and envelope) before the first byte is sent,
 * and leave all of it to the HTTP/2 session's queue; so the content of pieces goes past it, as the store hands it out: the
 * body of such an answer takes a chunk when its reader asks for the next, and obeys the upload rate limit.
 */
export function grpcHandlers(
  store: PieceStore,
  settings: ServerSettings,
  serving: GrpcServing = {},
): readonly UniversalHandler[] {
  const service = new UploadService(store, settings, serving);
  const router = createConnectRouter({
    acceptCompression: [],
    connect: false,
    grpcWeb: false,
    readMaxBytes: MAX_REQUEST_LENGTH,
  });
  router.service(DfdaemonUpload, {
    downloadPiece: (request, context) => service.downloadPiece("standard", request, context),
    downloadPersistentPiece: (request, context) =>
      service.downloadPiece("persistent", request, context),
    downloadPersistentCachePiece: (request, context) =>
      service.downloadPiece("persistent-cache", request, context),
    downloadCachePiece: (request, context) => service.downloadPiece("cache", request, context),
    downloadTask: (request, context) => service.downloadTask(request, context),
    downloadPersistentTask: (request, context) => service.downloadPersistentTask(request, context),
    downloadPersistentCacheTask: (request, context) =>
      service.downloadPersistentCacheTask(request, context),
    syncPieces: (request, context) => service.syncPieces("standard", request, context),
    syncPersistentPieces: (request, context) => service.syncPieces("persistent", request, context),
    syncPersistentCachePieces: (request, context) =>
      service.syncPieces("persistent-cache", request, context),
    syncCachePieces: (message, context) => {
      const { taskId, interestedCachePieceNumbers: interestedPieceNumbers } = message;
      message.interestedCachePieceNumbers = [];
      return service.syncPieces("cache", { taskId, interestedPieceNumbers }, context);
    },
    statTask: async (request, context) => {
      const task = await service.stat("stat_task", undefined, request, context);
      const pieces = listingOf(task).held(task, TaskSchema.field.pieces.number);
      return Object.assign(create(TaskSchema, taskMessage(task)), { $unknown: pieces });
    },
    statLocalTask: async (request, context) =>
      localTaskMessage(await service.stat("stat_local_task", undefined, request, context)),
    statPersistentTask: async (request, context) =>
      persistentTaskMessage(await service.stat("stat_task", "persistent", request, context)),
    statPersistentCacheTask: async (request, context) =>
      persistentCacheTaskMessage(
        await service.stat("stat_task", "persistent-cache", request, context),
      ),
  });
  return router.handlers.map((handler) =>
    handler.method.localName.startsWith("download") ? pastConnect(handler, settings) : handler,
  );
}

/** An answer of DownloadTask and its twins, but for the pieces. */
interface TaskAnswer {
  readonly task: StoredTask;
  /** The first message. */
  readonly started: Uint8Array;
  /** What stands around each piece, see {@link contentHead}. */
  readonly around: readonly Around[];
  readonly needsContent: boolean;
  /** The pieces to send, by number. */
  readonly wanted: WantedPieces;
}

/** The methods' implementations. */
class UploadService {
  readonly #store: PieceStore;
  readonly #settings: ServerSettings;
  readonly #serving: GrpcServing;
  /** Answers of SyncPieces, DownloadTask and their twins that are under way; each is ended by a call. */
  readonly #streams = new FairSet<() => void>();

  constructor(store: PieceStore, settings: ServerSettings, serving: GrpcServing) {
    this.#store = store;
    this.#settings = settings;
    this.#serving = serving;
  }

  async downloadPiece(
    kind: PieceKind,
    { taskId, pieceNumber: number }: { readonly taskId: string; readonly pieceNumber: number },
    { values, signal, requestHeader: headers }: HandlerContext,
  ): Promise<object> {
    const answer = new Answer(this.#settings.telemetry, {
      name: "download_piece",
      taskId,
      kind,
      number,
      headers,
    });
    return answer.orFailed(async () => {
      requireTaskId(taskId);
      const piece = await this.#piece(taskId, kind, number, signal);
      const { digest, piece: field } = DownloadPieceResponseSchema.field;
      const checksum = metadataDigest("crc32", piece.metadata, this.#settings.runtime.hashers);
      const before = new BinaryWriter()
        .tag(digest.number, WireType.LengthDelimited)
        .string(checksum)
        .finish();
      const head = contentHead(piece.metadata, [{ before, field: field.number }]);
      const from = values.get(askedFrom);
      values.set(answeredBody, (bodySignal) =>
        answer.whole(contentBody(piece, head, from, bodySignal, this.#settings)),
      );
      answer.bytes = Number(piece.metadata.length);
      return {};
    });
  }

  downloadTask({ download }: DownloadTaskRequest, context: HandlerContext): Unanswered {
    return this.#answerTask(context, async () => {
      if (download === undefined) throw invalid("download is missing");
      requireNoFile(download.outputPath);
      if (download.range === undefined && Object.keys(download.requestHeader).some(isRange)) {
        throw invalid("a range is taken from the field of that name, not from a header");
      }
      const task = await this.task("standard", { taskId: standardTaskId(download) }, context);
      const ids = this.#ids(task, context);
      const { range } = download;
      const span = spanOf(task, range);
      const started = create(DownloadTaskStartedResponseSchema, {
        contentLength: BigInt(task.contentLength),
        ...(range !== undefined && { range }),
        responseHeader: responseHeader(task),
        isFinished: task.complete !== false,
      });
      const pieces = DownloadTaskStartedResponseSchema.field.pieces.number;
      started.$unknown = listingOf(task).planned(task, pieces, span);
      const response = { case: "downloadTaskStartedResponse", value: started } as const;
      const schema = DownloadTaskResponseSchema;
      return {
        task,
        started: toBinary(schema, create(schema, { ...ids, response })),
        around: aroundPiece(
          toBinary(schema, create(schema, ids)),
          schema.field.downloadPieceFinishedResponse.number,
        ),
        needsContent: download.needPieceContent,
        wanted: wantedPieces(task, numbersIn(span)),
      };
    });
  }

  downloadPersistentTask(
    request: DownloadPersistentTaskRequest,
    context: HandlerContext,
  ): Unanswered {
    return this.#answerTask(context, async () => {
      requireNoFile(request.outputPath);
      const { region, endpoint } = request.objectStorage ?? {};
      if (region === undefined || endpoint === undefined)
        throw invalid("object_storage: region or endpoint is missing");
      const taskId = persistentTaskId(
        { url: request.url, region, endpoint },
        this.#settings.runtime.hashers,
      );
      const task = await this.task("persistent", { taskId }, context);
      const ids = this.#ids(task, context);
      const value = { contentLength: BigInt(task.contentLength) };
      const response = { case: "downloadPersistentTaskStartedResponse", value } as const;
      const schema = DownloadPersistentTaskResponseSchema;
      return {
        task,
        started: toBinary(schema, create(schema, { ...ids, response })),
        around: aroundPiece(
          toBinary(schema, create(schema, ids)),
          schema.field.downloadPieceFinishedResponse.number,
        ),
        needsContent: request.needPieceContent,
        wanted: wantedPieces(task, numbersIn(spanOf(task))),
      };
    });
  }

  downloadPersistentCacheTask(
    request: DownloadPersistentCacheTaskRequest,
    context: HandlerContext,
  ): Unanswered {
    return this.#answerTask(context, async () => {
      requireNoFile(request.outputPath);
      const task = await this.task("persistent-cache", request, context);
      const ids = this.#ids(task, context);
      const value = { contentLength: BigInt(task.contentLength) };
      const response = { case: "downloadPersistentCacheTaskStartedResponse", value } as const;
      const schema = DownloadPersistentCacheTaskResponseSchema;
      return {
        task,
        started: toBinary(schema, create(schema, { ...ids, response })),
        around: aroundPiece(
          toBinary(schema, create(schema, ids)),
          schema.field.downloadPieceFinishedResponse.number,
        ),
        needsContent: request.needPieceContent,
        wanted: wantedPieces(task, numbersIn(spanOf(task))),
      };
    });
  }

  /**
   * Announces the pieces that are asked for, as the store gets them. A stock peer is never asked without numbers; here that
   * means all pieces.
   */
  async *syncPieces(
    kind: PieceKind,
    request: SyncRequest,
    context: HandlerContext,
  ): AsyncGenerator<SyncAnswer, void, void> {
    const { telemetry } = this.#settings;
    const { requestHeader: headers } = context;
    yield* new Answer(telemetry, {
      name: "sync_pieces",
      taskId: request.taskId,
      kind,
      headers,
    }).whole(this.#announcements(kind, request, context));
  }

  async *#announcements(
    kind: PieceKind,
    request: SyncRequest,
    context: HandlerContext,
  ): AsyncGenerator<SyncAnswer, void, void> {
    const task = await this.task(kind, request, context);
    const { tcpPort, quicPort } = this.#serving;
    const address = {
      ip: this.#ip(context),
      ...(tcpPort !== undefined && { tcpPort }),
      ...(quicPort !== undefined && { quicPort }),
    };
    const { interestedPieceNumbers: named } = request;
    const wanted = wantedPieces(task, named.length > 0 ? named : numbersIn(spanOf(task)));
    // Connect keeps the message as long as it is answered.
    request.interestedPieceNumbers = [];
    if (wanted.size === 0) return;
    const stream = this.#enter(context.values.get(askedFrom), context.signal);
    try {
      for await (const { number, offset, length } of watched(task, stream.signal)) {
        stream.requirePlace();
        if (!wanted.delete(number)) continue;
        yield { number, offset, length, ...address };
        if (wanted.size === 0) return;
      }
    } catch (error) {
      stream.requirePlace();
      throw this.#failure(error, "the task", context.signal);
    } finally {
      stream.leave();
    }
  }

  stat(
    name: "stat_task" | "stat_local_task",
    kind: PieceKind | undefined,
    request: { readonly taskId: string },
    context: HandlerContext,
  ): Promise<StoredTask> {
    const { requestHeader: headers } = context;
    const answer = new Answer(this.#settings.telemetry, {
      name,
      taskId: request.taskId,
      kind,
      headers,
    });
    return answer.orFailed(async () => {
      const task = await this.task(kind, request, context);
      answer.end();
      return task;
    });
  }

  /** The task, of any kind or of one. Throws NOT_FOUND. */
  async task(
    kind: PieceKind | undefined,
    { taskId }: { readonly taskId: string },
    { signal }: HandlerContext,
  ): Promise<StoredTask> {
    requireTaskId(taskId);
    const task = await this.#reading(
      () => this.#store.getTask(taskId, { signal }),
      "the task",
      signal,
    );
    if (task === undefined || (kind !== undefined && task.kind !== kind)) {
      throw new ConnectError(
        `${kind === undefined ? "" : `${kind} `}task ${taskId} is not here`,
        Code.NotFound,
      );
    }
    return task;
  }

  async #piece(
    taskId: string,
    kind: PieceKind,
    number: number,
    signal: AbortSignal,
  ): Promise<StoredPiece> {
    const request = { taskId, number, kind };
    const piece = await this.#reading(
      () => this.#store.getPiece(request, { signal }),
      "the piece",
      signal,
    );
    if (piece === undefined) {
      throw new ConnectError(
        `${kind} piece ${number} of task ${taskId} is not here`,
        Code.NotFound,
      );
    }
    return piece;
  }

  /** An answer to Connect without messages; the body goes past it. */
  #answerTask(context: HandlerContext, prepare: () => Promise<TaskAnswer>): Unanswered {
    const next = async (): Promise<IteratorReturnResult<undefined>> => {
      const prepared = await prepare();
      const { taskId, kind } = prepared.task;
      const { requestHeader: headers } = context;
      const answer = new Answer(this.#settings.telemetry, {
        name: "download_task",
        taskId,
        kind,
        headers,
      });
      const from = context.values.get(askedFrom);
      context.values.set(answeredBody, (signal) =>
        answer.whole(this.#taskBody(prepared, answer, from, signal)),
      );
      return { done: true, value: undefined };
    };
    return { [Symbol.asyncIterator]: () => ({ next }) };
  }

  async *#taskBody(
    { task, started, wanted, around, needsContent }: TaskAnswer,
    answer: Answer,
    from: string,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    const stream = this.#enter(from, signal);
    try {
      yield envelope(started);
      for await (const metadata of watched(task, stream.signal)) {
        stream.requirePlace();
        if (!wanted.delete(metadata.number)) continue;
        if (needsContent) {
          const piece = await this.#piece(task.taskId, task.kind, metadata.number, signal);
          yield* contentBody(
            piece,
            contentHead(piece.metadata, around),
            from,
            stream.signal,
            this.#settings,
          );
          answer.bytes += Number(piece.metadata.length);
        } else {
          yield withoutContent(metadata, around);
        }
        if (wanted.size === 0) break;
      }
    } catch (error) {
      stream.requirePlace();
      throw error;
    } finally {
      stream.leave();
    }
    // A task that was given up half way.
    if (wanted.size > 0)
      throw new ConnectError(`${wanted.size} pieces are not here`, Code.NotFound);
  }

  /**
   * A place for an answer about a task. When all are taken, one of the network that has most is given up for it; throws
   * RESOURCE_EXHAUSTED when that is not more than its own has.
   */
  #enter(from: string, signal: AbortSignal): TaskStream {
    const busy = (): ConnectError => {
      const most = this.#settings.maxTaskStreams;
      return new ConnectError(`${most} tasks are being answered already`, Code.ResourceExhausted);
    };
    if (this.#streams.size >= this.#settings.maxTaskStreams) {
      const makeRoom = this.#streams.evictionCandidate(from);
      if (makeRoom === undefined) throw busy();
      makeRoom();
    }
    const ended = new AbortController();
    let lostPlace = false;
    const makeRoom = (): void => {
      lostPlace = true;
      this.#streams.delete(from, makeRoom);
      ended.abort();
    };
    this.#streams.add(from, makeRoom);
    const settled = signal.aborted
      ? ended.abort(signal.reason)
      : onAbort(signal, () => ended.abort(signal.reason));
    return {
      signal: ended.signal,
      requirePlace: () => {
        if (lostPlace) throw busy();
      },
      leave: () => {
        settled?.();
        this.#streams.delete(from, makeRoom);
      },
    };
  }

  #ip({ values }: HandlerContext): string {
    return this.#serving.advertisedIp ?? values.get(reachedAt);
  }

  #ids(
    { taskId }: StoredTask,
    context: HandlerContext,
  ): { hostId: string; taskId: string; peerId: string } {
    const host = { ip: this.#ip(context), hostname: this.#serving.hostname ?? "vortex-peer" };
    return { hostId: hostId(host), taskId, peerId: peerId(host, this.#settings.runtime.random) };
  }

  async #reading<T>(read: () => Promise<T>, what: string, signal: AbortSignal): Promise<T> {
    try {
      return await read();
    } catch (error) {
      throw this.#failure(error, what, signal);
    }
  }

  /** What the peer is told; what went wrong inside is not its to know. */
  #failure(error: unknown, what: string, signal: AbortSignal): ConnectError {
    return reportFailure(error, what, signal, this.#settings);
  }
}

/** A request of SyncPieces or a twin. */
interface SyncRequest {
  readonly taskId: string;
  interestedPieceNumbers: number[];
}

/** An answer of SyncPieces or a twin. */
interface SyncAnswer {
  readonly number: number;
  readonly offset: bigint;
  readonly length: bigint;
  readonly ip: string;
  readonly tcpPort?: number;
  readonly quicPort?: number;
}

/** An answer about a task that has its place. */
interface TaskStream {
  /** Fires when the peer gives the call up, or another one is given its place. */
  readonly signal: AbortSignal;
  /** Throws RESOURCE_EXHAUSTED once another one has its place. */
  requirePlace(): void;
  /** Frees the place. Idempotent. */
  leave(): void;
}

type Unanswered = AsyncIterable<never>;

/** The pieces that the task has, and those that come. */
function watched(
  task: StoredTask,
  signal: AbortSignal,
): Iterable<PieceMetadata> | AsyncIterable<PieceMetadata> {
  return task.watch?.({ signal }) ?? task.pieces();
}

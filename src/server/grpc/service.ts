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
import { bypassBody, bypassConnect } from "./body.ts";
import {
  contentBody,
  contentHead,
  type EnclosingMessage,
  enclosingMessages,
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

/** Maximum length of a request message, in bytes. A SyncPieces request for 50,000 pieces fits. */
export const MAX_REQUEST_LENGTH: number = 256 * 1024;

/** Addresses and names of this host that the gRPC server sends to peers in its responses. */
export interface AdvertisedHost {
  /** Port of the Vortex server over TCP. Default: responses contain no TCP port. */
  readonly tcpPort?: number;
  /** Port of the Vortex server over QUIC. Default: responses contain no QUIC port. */
  readonly quicPort?: number;
  /**
   * IP address at which peers reach this host. Default: the local address of the gRPC connection,
   * see {@link localAddress}.
   */
  readonly advertisedIp?: string;
  /** Host name from which the host ID and peer ID in responses are built. Default `vortex-peer`. */
  readonly hostname?: string;
}

/**
 * Connect context value with the local IP address of the connection on which a request arrived. The
 * HTTP/2 adapter sets it for each request.
 */
export const localAddress: ContextKey<string> = createContextKey("");

/**
 * Connect context value with the network of the client, see `networkOf`. The HTTP/2 adapter
 * sets it for each request.
 */
export const clientNetwork: ContextKey<string> = createContextKey("");

/**
 * Creates Connect handlers that serve the tasks of `store` as the gRPC service
 * `dfdaemon.v2.DfdaemonUpload`. They implement DownloadPiece, DownloadTask, SyncPieces and
 * StatTask, their variants for other kinds of task, and StatLocalTask. Other methods of the service
 * fail with UNIMPLEMENTED.
 *
 * The server sends only tasks that are in `store`, complete or growing. It downloads nothing on
 * behalf of a peer. An internal failure goes to `settings.onError`; the peer receives INTERNAL
 * without details.
 *
 * Responses with the content of pieces bypass Connect's encoder. Connect would hold a piece in
 * memory three times before it sends the first byte: as content, message and envelope. It would
 * also queue the complete piece in the HTTP/2 session. Instead, such a response reads a chunk from
 * the store only when the HTTP/2 stream can send it. The upload rate limit applies.
 */
export function grpcHandlers(
  store: PieceStore,
  settings: ServerSettings,
  serving: AdvertisedHost = {},
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
      const pieces = listingOf(task).stored(task, TaskSchema.field.pieces.number);
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
    handler.method.localName.startsWith("download") ? bypassConnect(handler, settings) : handler,
  );
}

/** Data for a response to DownloadTask, DownloadPersistentTask or DownloadPersistentCacheTask. */
interface TaskAnswer {
  readonly task: StoredTask;
  /** First message of the response, in encoded form. It announces the content length. */
  readonly started: Uint8Array;
  /** Protobuf messages around each piece, see {@link enclosingMessages}. */
  readonly enclosing: readonly EnclosingMessage[];
  /**
   * True if the peer requests the content of the pieces, false if it requests only their metadata.
   */
  readonly needsContent: boolean;
  /** Pieces that have not been sent yet. */
  readonly wanted: WantedPieces;
}

/** Implements the RPC methods of `dfdaemon.v2.DfdaemonUpload`. */
class UploadService {
  readonly #store: PieceStore;
  readonly #settings: ServerSettings;
  readonly #serving: AdvertisedHost;
  /**
   * Responses in flight to SyncPieces, DownloadTask and their variants, by client network. Each
   * item is a function that evicts the response.
   */
  readonly #streams = new FairSet<() => void>();

  constructor(store: PieceStore, settings: ServerSettings, serving: AdvertisedHost) {
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
    return answer.run(async () => {
      requireTaskId(taskId);
      const piece = await this.#piece(taskId, kind, number, signal);
      const { digest, piece: field } = DownloadPieceResponseSchema.field;
      const checksum = metadataDigest("crc32", piece.metadata, this.#settings.runtime.hashers);
      const before = new BinaryWriter()
        .tag(digest.number, WireType.LengthDelimited)
        .string(checksum)
        .finish();
      const head = contentHead(piece.metadata, [{ before, field: field.number }]);
      const from = values.get(clientNetwork);
      values.set(bypassBody, (bodySignal) =>
        answer.stream(contentBody(piece, head, from, bodySignal, this.#settings)),
      );
      answer.bytes = Number(piece.metadata.length);
      return {};
    });
  }

  downloadTask({ download }: DownloadTaskRequest, context: HandlerContext): BypassedAnswer {
    return this.#answerTask(context, async () => {
      if (download === undefined) throw invalid("download: expected a message, got none");
      requireNoFile(download.outputPath);
      if (download.range === undefined && Object.keys(download.requestHeader).some(isRange)) {
        throw invalid("range: expected the field range, got a Range header");
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
        enclosing: enclosingMessages(
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
  ): BypassedAnswer {
    return this.#answerTask(context, async () => {
      requireNoFile(request.outputPath);
      const { region, endpoint } = request.objectStorage ?? {};
      if (region === undefined || endpoint === undefined) {
        const missing = region === undefined ? "no region" : "no endpoint";
        throw invalid(`object_storage: expected a region and an endpoint, got ${missing}`);
      }
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
        enclosing: enclosingMessages(
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
  ): BypassedAnswer {
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
        enclosing: enclosingMessages(
          toBinary(schema, create(schema, ids)),
          schema.field.downloadPieceFinishedResponse.number,
        ),
        needsContent: request.needPieceContent,
        wanted: wantedPieces(task, numbersIn(spanOf(task))),
      };
    });
  }

  /**
   * Implements SyncPieces and its variants: sends the number, offset and length of each requested
   * piece as soon as it is in the store. A request without piece numbers requests all pieces of the
   * task; dfdaemon always sends numbers.
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
    }).stream(this.#announcements(kind, request, context));
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
    // Free the numbers: Connect keeps the message until the answer is complete.
    request.interestedPieceNumbers = [];
    if (wanted.size === 0) return;
    const slot = this.#takeSlot(context.values.get(clientNetwork), context.signal);
    try {
      for await (const { number, offset, length } of piecesOf(task, slot.signal)) {
        slot.throwIfEvicted();
        if (!wanted.delete(number)) continue;
        yield { number, offset, length, ...address };
        if (wanted.size === 0) return;
      }
    } catch (error) {
      slot.throwIfEvicted();
      throw this.#failure(error, "the task", context.signal);
    } finally {
      slot.leave();
    }
  }

  /**
   * Looks up a task for a Stat method, and reports the call to telemetry.
   *
   * @param name name of the operation in telemetry
   * @param kind required kind of the task; undefined accepts any kind
   * @throws NOT_FOUND if the store does not have such a task
   */
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
    return answer.run(async () => {
      const task = await this.task(kind, request, context);
      answer.end();
      return task;
    });
  }

  /**
   * Looks up a task in the store. If `kind` is set, the task must be of that kind.
   *
   * @throws NOT_FOUND if the store does not have such a task
   */
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
        `${kind === undefined ? "" : `${kind} `}task ${taskId}: not in the store`,
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
        `${kind} piece ${number} of task ${taskId}: not in the store`,
        Code.NotFound,
      );
    }
    return piece;
  }

  /**
   * Creates the response to DownloadTask or a variant. Its iterator yields no messages: it runs
   * `prepare`, then sets {@link bypassBody} to the body that {@link bypassConnect} sends.
   */
  #answerTask(context: HandlerContext, prepare: () => Promise<TaskAnswer>): BypassedAnswer {
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
      const from = context.values.get(clientNetwork);
      context.values.set(bypassBody, (signal) =>
        answer.stream(this.#taskBody(prepared, answer, from, signal)),
      );
      return { done: true, value: undefined };
    };
    return { [Symbol.asyncIterator]: () => ({ next }) };
  }

  async *#taskBody(
    { task, started, wanted, enclosing, needsContent }: TaskAnswer,
    answer: Answer,
    network: string,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    const slot = this.#takeSlot(network, signal);
    try {
      yield envelope(started);
      for await (const metadata of piecesOf(task, slot.signal)) {
        slot.throwIfEvicted();
        if (!wanted.delete(metadata.number)) continue;
        if (needsContent) {
          const piece = await this.#piece(task.taskId, task.kind, metadata.number, slot.signal);
          yield* contentBody(
            piece,
            contentHead(piece.metadata, enclosing),
            network,
            slot.signal,
            this.#settings,
          );
          answer.bytes += Number(piece.metadata.length);
        } else {
          yield withoutContent(metadata, enclosing);
        }
        if (wanted.size === 0) break;
      }
    } catch (error) {
      slot.throwIfEvicted();
      throw error;
    } finally {
      slot.leave();
    }
    // The task was abandoned.
    if (wanted.size > 0)
      throw new ConnectError(`${wanted.size} pieces: not in the store`, Code.NotFound);
  }

  /**
   * Counts one more response in flight for `network`. When `maxTaskStreams` responses are in
   * flight, evicts the oldest response of the network with the most responses.
   *
   * @throws RESOURCE_EXHAUSTED if an eviction would leave that network with no more responses than
   * `network` has
   */
  #takeSlot(network: string, signal: AbortSignal): TaskSlot {
    const limit = this.#settings.maxTaskStreams;
    const busy = (): ConnectError =>
      new ConnectError(
        `too many answers about tasks: the limit is ${limit} (maxTaskStreams)`,
        Code.ResourceExhausted,
      );
    if (this.#streams.size >= limit) {
      const evictOther = this.#streams.evictionCandidate(network);
      if (evictOther === undefined) throw busy();
      evictOther();
    }
    const ended = new AbortController();
    let evicted = false;
    const evict = (): void => {
      evicted = true;
      this.#streams.delete(network, evict);
      ended.abort();
    };
    this.#streams.add(network, evict);
    const unsubscribe = signal.aborted
      ? ended.abort(signal.reason)
      : onAbort(signal, () => ended.abort(signal.reason));
    return {
      signal: ended.signal,
      throwIfEvicted: () => {
        if (evicted) throw busy();
      },
      leave: () => {
        unsubscribe?.();
        this.#streams.delete(network, evict);
      },
    };
  }

  #ip({ values }: HandlerContext): string {
    return this.#serving.advertisedIp ?? values.get(localAddress);
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

  /** Converts an error to the gRPC status for the peer, see {@link reportFailure}. */
  #failure(error: unknown, what: string, signal: AbortSignal): ConnectError {
    return reportFailure(error, what, signal, this.#settings);
  }
}

/** Request of SyncPieces, or of a variant for another kind of task. */
interface SyncRequest {
  readonly taskId: string;
  interestedPieceNumbers: number[];
}

/**
 * Message in the response stream of SyncPieces or a variant. It announces one piece, and the
 * address of the Vortex servers that serve it.
 */
interface SyncAnswer {
  readonly number: number;
  readonly offset: bigint;
  readonly length: bigint;
  readonly ip: string;
  readonly tcpPort?: number;
  readonly quicPort?: number;
}

/**
 * Permission to send one response to SyncPieces, DownloadTask or a variant. The option
 * `maxTaskStreams` limits their number.
 */
interface TaskSlot {
  /** Aborts when the peer cancels the call, and when the response is evicted. */
  readonly signal: AbortSignal;
  /**
   * Checks that the response was not evicted in favour of a response to another network.
   *
   * @throws RESOURCE_EXHAUSTED if the response was evicted
   */
  throwIfEvicted(): void;
  /** Frees the slot at the end of the response. Idempotent. */
  leave(): void;
}

/** Response stream without messages. Its body is sent by {@link bypassConnect} instead. */
type BypassedAnswer = AsyncIterable<never>;

/**
 * Iterates over the pieces of a task in the store. For a growing task, also yields each further
 * piece when it arrives, until the task is complete or `signal` aborts.
 */
function piecesOf(
  task: StoredTask,
  signal: AbortSignal,
): Iterable<PieceMetadata> | AsyncIterable<PieceMetadata> {
  return task.watch?.({ signal }) ?? task.pieces();
}

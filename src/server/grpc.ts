import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import {
  Code,
  ConnectError,
  type ContextKey,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect";
// Connect calls these private, which its exact version in package.json answers for. They are what its own adapters stand on.
import {
  createAsyncIterable,
  type UniversalHandler,
  type UniversalServerRequest,
  type UniversalServerResponse,
  untilFirst,
} from "@connectrpc/connect/protocol";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { metadataDigest } from "../digest/piece-metadata.ts";
import { abortedError, type ErrorCode, VortexError } from "../errors.ts";
import { type Download, PieceSchema, type Range } from "../gen/common/v2/common_pb.ts";
import {
  DfdaemonUpload,
  type DownloadPersistentCacheTaskRequest,
  DownloadPersistentCacheTaskResponseSchema,
  type DownloadPersistentTaskRequest,
  DownloadPersistentTaskResponseSchema,
  DownloadPieceFinishedResponseSchema,
  DownloadPieceResponseSchema,
  type DownloadTaskRequest,
  DownloadTaskResponseSchema,
} from "../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { hostId, isBlobUrl, peerId, persistentTaskId, taskIdOfBlob, taskIdOfContent, taskIdOfUrl } from "../ids.ts";
import { type PieceKind, type PieceMetadata, pieceExtent, planTask } from "../piece.ts";
import { beginOperation, type Operation, type OperationStart, type Telemetry } from "../telemetry.ts";
import {
  localTaskMessage,
  persistentCacheTaskMessage,
  persistentTaskMessage,
  pieceFields,
  responseHeader,
  taskMessage,
} from "./grpc-messages.ts";
import type { PieceStore, StoredPiece, StoredTask } from "./store.ts";
import type { ServerSettings } from "./upload.ts";

/** Greatest request that is read, in bytes: the numbers of 60,000 pieces, at least. */
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
    downloadPersistentPiece: (request, context) => service.downloadPiece("persistent", request, context),
    downloadPersistentCachePiece: (request, context) => service.downloadPiece("persistent-cache", request, context),
    downloadCachePiece: (request, context) => service.downloadPiece("cache", request, context),
    downloadTask: (request, context) => service.downloadTask(request, context),
    downloadPersistentTask: (request, context) => service.downloadPersistentTask(request, context),
    downloadPersistentCacheTask: (request, context) => service.downloadPersistentCacheTask(request, context),
    syncPieces: (request, context) => service.syncPieces("standard", request, context),
    syncPersistentPieces: (request, context) => service.syncPieces("persistent", request, context),
    syncPersistentCachePieces: (request, context) => service.syncPieces("persistent-cache", request, context),
    syncCachePieces: ({ hostId, taskId, interestedCachePieceNumbers }, context) => {
      const request = { hostId, taskId, interestedPieceNumbers: interestedCachePieceNumbers };
      return service.syncPieces("cache", request, context);
    },
    statTask: async (request, context) => taskMessage(await service.stat("stat_task", undefined, request, context)),
    statLocalTask: async (request, context) =>
      localTaskMessage(await service.stat("stat_local_task", undefined, request, context)),
    statPersistentTask: async (request, context) =>
      persistentTaskMessage(await service.stat("stat_task", "persistent", request, context)),
    statPersistentCacheTask: async (request, context) =>
      persistentCacheTaskMessage(await service.stat("stat_task", "persistent-cache", request, context)),
  });
  return router.handlers.map((handler) =>
    handler.method.localName.startsWith("download") ? pastConnect(handler, settings) : handler,
  );
}

/** The body of an answer that goes past Connect. What it throws becomes the call's status. */
type Body = (signal: AbortSignal) => AsyncGenerator<Uint8Array, void, void>;

/** Carries that body from a method's implementation to the answer. */
const answeredBody = createContextKey<Body | undefined>(undefined);

/** An answer of DownloadTask and its twins, but for the pieces. */
interface TaskAnswer {
  readonly task: StoredTask;
  /** The first message. */
  readonly started: Uint8Array;
  /** What stands around each piece, see {@link contentHead}. */
  readonly around: readonly Around[];
  readonly needsContent: boolean;
  /** The pieces to send, by number. */
  readonly wanted: Set<number>;
}

/** The methods' implementations. */
class UploadService {
  readonly #store: PieceStore;
  readonly #settings: ServerSettings;
  readonly #serving: GrpcServing;
  /** Answers of SyncPieces, DownloadTask and their twins that are under way. */
  #streams = 0;

  constructor(store: PieceStore, settings: ServerSettings, serving: GrpcServing) {
    this.#store = store;
    this.#settings = settings;
    this.#serving = serving;
  }

  async downloadPiece(
    kind: PieceKind,
    { taskId, pieceNumber: number }: { readonly taskId: string; readonly pieceNumber: number },
    { values, signal }: HandlerContext,
  ): Promise<object> {
    const answer = new Answer(this.#settings.telemetry, { name: "download_piece", taskId, kind, number });
    return answer.orFailed(async () => {
      requireTaskId(taskId);
      const piece = await this.#piece(taskId, kind, number, signal);
      const { digest, piece: field } = DownloadPieceResponseSchema.field;
      const checksum = metadataDigest("crc32", piece.metadata, this.#settings.runtime.hashers);
      const before = new BinaryWriter().tag(digest.number, WireType.LengthDelimited).string(checksum).finish();
      const head = contentHead(piece.metadata, [{ before, field: field.number }]);
      values.set(answeredBody, (bodySignal) => answer.whole(contentBody(piece, head, bodySignal, this.#settings)));
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
      const pieces = plannedPieces(task, range);
      const value = {
        contentLength: BigInt(task.contentLength),
        ...(range !== undefined && { range }),
        responseHeader: responseHeader(task),
        pieces: [...pieces.values()],
        isFinished: task.complete !== false,
      };
      const response = { case: "downloadTaskStartedResponse", value } as const;
      const schema = DownloadTaskResponseSchema;
      return {
        task,
        started: toBinary(schema, create(schema, { ...ids, response })),
        around: aroundPiece(toBinary(schema, create(schema, ids)), schema.field.downloadPieceFinishedResponse.number),
        needsContent: download.needPieceContent,
        wanted: new Set(pieces.keys()),
      };
    });
  }

  downloadPersistentTask(request: DownloadPersistentTaskRequest, context: HandlerContext): Unanswered {
    return this.#answerTask(context, async () => {
      requireNoFile(request.outputPath);
      const { region, endpoint } = request.objectStorage ?? {};
      if (region === undefined || endpoint === undefined)
        throw invalid("object_storage: region or endpoint is missing");
      const taskId = persistentTaskId({ url: request.url, region, endpoint }, this.#settings.runtime.hashers);
      const task = await this.task("persistent", { taskId }, context);
      const ids = this.#ids(task, context);
      const value = { contentLength: BigInt(task.contentLength) };
      const response = { case: "downloadPersistentTaskStartedResponse", value } as const;
      const schema = DownloadPersistentTaskResponseSchema;
      return {
        task,
        started: toBinary(schema, create(schema, { ...ids, response })),
        around: aroundPiece(toBinary(schema, create(schema, ids)), schema.field.downloadPieceFinishedResponse.number),
        needsContent: request.needPieceContent,
        wanted: new Set(plannedPieces(task).keys()),
      };
    });
  }

  downloadPersistentCacheTask(request: DownloadPersistentCacheTaskRequest, context: HandlerContext): Unanswered {
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
        around: aroundPiece(toBinary(schema, create(schema, ids)), schema.field.downloadPieceFinishedResponse.number),
        needsContent: request.needPieceContent,
        wanted: new Set(plannedPieces(task).keys()),
      };
    });
  }

  /**
   * Announces the pieces that are asked for, as the store gets them. A stock peer is never asked without numbers; here that
   * means all pieces.
   */
  async *syncPieces(
    kind: PieceKind,
    request: { readonly hostId: string; readonly taskId: string; readonly interestedPieceNumbers: readonly number[] },
    context: HandlerContext,
  ): AsyncGenerator<SyncAnswer, void, void> {
    const { telemetry } = this.#settings;
    yield* new Answer(telemetry, { name: "sync_pieces", taskId: request.taskId, kind }).whole(
      this.#announcements(kind, request, context),
    );
  }

  async *#announcements(
    kind: PieceKind,
    request: { readonly taskId: string; readonly interestedPieceNumbers: readonly number[] },
    context: HandlerContext,
  ): AsyncGenerator<SyncAnswer, void, void> {
    const task = await this.task(kind, request, context);
    const { tcpPort, quicPort } = this.#serving;
    const address = {
      ip: this.#ip(context),
      ...(tcpPort !== undefined && { tcpPort }),
      ...(quicPort !== undefined && { quicPort }),
    };
    const numbers = new Set(request.interestedPieceNumbers);
    const all = numbers.size === 0;
    this.#enter();
    try {
      for await (const { number, offset, length } of watched(task, context.signal)) {
        if (!all && !numbers.delete(number)) continue;
        yield { number, offset, length, ...address };
        if (!all && numbers.size === 0) return;
      }
    } catch (error) {
      throw this.#failure(error, "the task", context.signal);
    } finally {
      this.#streams--;
    }
  }

  stat(
    name: "stat_task" | "stat_local_task",
    kind: PieceKind | undefined,
    request: { readonly taskId: string },
    context: HandlerContext,
  ): Promise<StoredTask> {
    const answer = new Answer(this.#settings.telemetry, { name, taskId: request.taskId, kind });
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
    const task = await this.#reading(() => this.#store.getTask(taskId, { signal }), "the task", signal);
    if (task === undefined || (kind !== undefined && task.kind !== kind)) {
      throw new ConnectError(`${kind === undefined ? "" : `${kind} `}task ${taskId} is not here`, Code.NotFound);
    }
    return task;
  }

  async #piece(taskId: string, kind: PieceKind, number: number, signal: AbortSignal): Promise<StoredPiece> {
    const request = { taskId, number, kind };
    const piece = await this.#reading(() => this.#store.getPiece(request, { signal }), "the piece", signal);
    if (piece === undefined) {
      throw new ConnectError(`${kind} piece ${number} of task ${taskId} is not here`, Code.NotFound);
    }
    return piece;
  }

  /** An answer to Connect without messages; the body goes past it. */
  #answerTask(context: HandlerContext, prepare: () => Promise<TaskAnswer>): Unanswered {
    const next = async (): Promise<IteratorReturnResult<undefined>> => {
      const prepared = await prepare();
      const { taskId, kind } = prepared.task;
      const answer = new Answer(this.#settings.telemetry, { name: "download_task", taskId, kind });
      context.values.set(answeredBody, (signal) => answer.whole(this.#taskBody(prepared, answer, signal)));
      return { done: true, value: undefined };
    };
    return { [Symbol.asyncIterator]: () => ({ next }) };
  }

  async *#taskBody(
    { task, started, wanted, around, needsContent }: TaskAnswer,
    answer: Answer,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    this.#enter();
    try {
      yield concatenated([envelopeHeader(started.length), started]);
      for await (const metadata of watched(task, signal)) {
        if (!wanted.delete(metadata.number)) continue;
        if (needsContent) {
          const piece = await this.#piece(task.taskId, task.kind, metadata.number, signal);
          yield* contentBody(piece, contentHead(piece.metadata, around), signal, this.#settings);
          answer.bytes += Number(piece.metadata.length);
        } else {
          yield withoutContent(metadata, around);
        }
        if (wanted.size === 0) break;
      }
    } finally {
      this.#streams--;
    }
    // A task that was given up half way.
    if (wanted.size > 0) throw new ConnectError(`${wanted.size} pieces are not here`, Code.NotFound);
  }

  #enter(): void {
    const { maxTaskStreams } = this.#settings;
    if (this.#streams >= maxTaskStreams) {
      throw new ConnectError(`${maxTaskStreams} tasks are being answered already`, Code.ResourceExhausted);
    }
    this.#streams++;
  }

  #ip({ values }: HandlerContext): string {
    return this.#serving.advertisedIp ?? values.get(reachedAt);
  }

  #ids({ taskId }: StoredTask, context: HandlerContext): { hostId: string; taskId: string; peerId: string } {
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
    return toldFailure(error, what, signal, this.#settings);
  }
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

type Unanswered = AsyncIterable<never>;

/** What telemetry is told of one answer: its end, once, however it comes. */
class Answer {
  /** Bytes of content. */
  bytes = 0;
  readonly #operation: Operation | undefined;

  constructor(telemetry: Telemetry | undefined, start: Omit<OperationStart, "role">) {
    this.#operation = beginOperation(telemetry, { ...start, role: "server" });
  }

  end(): void {
    this.#operation?.end({ bytes: this.bytes });
  }

  async orFailed<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.#operation?.end({ error: statedFailure(error) });
      throw error;
    }
  }

  /** The items; the answer ends with them. */
  async *whole<T>(items: AsyncIterable<T>): AsyncGenerator<T, void, void> {
    try {
      yield* items;
      this.end();
    } catch (error) {
      this.#operation?.end({ error: statedFailure(error) });
      throw error;
    } finally {
      this.#operation?.end({ error: new VortexError("StreamReset", "the peer left") });
    }
  }
}

/** The failure that a status stands for. */
function statedFailure(error: unknown): VortexError {
  if (!(error instanceof ConnectError)) return VortexError.from(error, "Internal");
  const codes: Partial<Record<Code, ErrorCode>> = {
    [Code.NotFound]: "NotFound",
    [Code.InvalidArgument]: "InvalidArgument",
    [Code.ResourceExhausted]: "RemoteBusy",
    [Code.Canceled]: "StreamReset",
  };
  return new VortexError(codes[error.code] ?? "StorageFailed", error.rawMessage, { cause: error });
}

/** A handler that, where the method's implementation left a body, sends that instead of Connect's messages. */
function pastConnect(handler: UniversalHandler, settings: ServerSettings): UniversalHandler {
  const answer = async (request: UniversalServerRequest): Promise<UniversalServerResponse> => {
    const contextValues = request.contextValues ?? createContextValues();
    const response = await handler({ ...request, contextValues });
    // Connect ends the call, and its timer for the peer's deadline, when its own messages have been taken.
    for await (const _message of response.body ?? []);
    const body = contextValues.get(answeredBody);
    if (body === undefined) return { ...response, body: createAsyncIterable([]) };
    const trailer = new Headers(response.trailer);
    // The first read decides what is said before the content.
    return { ...response, trailer, body: await untilFirst(withStatus(body, trailer, request.signal, settings)) };
  };
  const { protocolNames, service, method, requestPath, allowedMethods, supportedContentType } = handler;
  return Object.assign(answer, {
    protocolNames,
    service,
    method,
    requestPath,
    allowedMethods,
    supportedContentType,
  });
}

/** The body; what it throws ends it early, and goes to the trailer. */
async function* withStatus(
  body: Body,
  trailer: Headers,
  signal: AbortSignal,
  settings: ServerSettings,
): AsyncGenerator<Uint8Array, void, void> {
  try {
    yield* body(signal);
  } catch (error) {
    setTrailerStatus(trailer, toldFailure(error, "the content", signal, settings));
  }
}

/** What the peer is told of a failure; what went wrong inside is not its to know, and reaches `onError`. */
function toldFailure(error: unknown, what: string, signal: AbortSignal, settings: ServerSettings): ConnectError {
  if (error instanceof ConnectError) return error;
  if (signal.aborted) return new ConnectError("the peer gave the call up", Code.Canceled);
  // As the watch of a task of which only a part was wanted ends.
  if (error instanceof VortexError && error.code === "NotFound") return new ConnectError(error.message, Code.NotFound);
  settings.onError(VortexError.from(error, "StorageFailed"));
  return new ConnectError(`${what} could not be read`, Code.Internal);
}

/** A piece as an envelope: `head`, and the content as the store hands it out, under the rate limit. */
async function* contentBody(
  piece: StoredPiece,
  head: Uint8Array,
  signal: AbortSignal,
  { limiter }: ServerSettings,
): AsyncGenerator<Uint8Array, void, void> {
  let unsent: Uint8Array | undefined = head;
  const chunks = piece.read()[Symbol.asyncIterator]();
  try {
    for (let left = Number(piece.metadata.length); left > 0; ) {
      const chunk = await nextChunk(chunks, left);
      for (const portion of limiter?.portions(chunk) ?? [chunk]) {
        await limiter?.take(portion.length, signal);
        if (signal.aborted) throw abortedError(signal, "sending a piece");
        // Not before there is content: a piece that cannot be read at all is answered by a status alone.
        if (unsent !== undefined) yield unsent;
        unsent = undefined;
        yield portion;
      }
      left -= chunk.length;
    }
    // Of an empty piece.
    if (unsent !== undefined) yield unsent;
  } finally {
    await chunks.return?.();
  }
}

async function nextChunk(chunks: AsyncIterator<Uint8Array>, left: number): Promise<Uint8Array> {
  const { done, value } = await chunks.next();
  if (done) throw new VortexError("StorageFailed", `the store ended a piece ${left} bytes early`);
  if (value.length > left) throw new VortexError("StorageFailed", "the store has more bytes than the piece");
  return value;
}

/** A message that stands around a piece: its other fields, encoded, and the number of the field that holds the rest. */
interface Around {
  readonly before: Uint8Array;
  readonly field: number;
}

/** What stands around a piece in an answer of DownloadTask or a twin, outermost first. */
function aroundPiece(ids: Uint8Array, field: number): readonly Around[] {
  const before = new Uint8Array(0);
  return [
    { before: ids, field },
    { before, field: DownloadPieceFinishedResponseSchema.field.piece.number },
  ];
}

/**
 * Everything of an envelope that comes before a piece's content. The content is the last field of the piece, and the piece
 * the last of what is around it: readers take fields in any order (https://protobuf.dev/programming-guides/encoding/#order).
 */
function contentHead(metadata: PieceMetadata, around: readonly Around[]): Uint8Array {
  const length = Number(metadata.length);
  const content = new BinaryWriter().tag(PieceSchema.field.content.number, WireType.LengthDelimited).uint32(length);
  return head(concatenated([pieceBytes(metadata), content.finish()]), length, around);
}

/** An envelope with a piece without its content. */
function withoutContent(metadata: PieceMetadata, around: readonly Around[]): Uint8Array {
  return head(pieceBytes(metadata), 0, around);
}

/** The envelope's header, a flag and the length as in gRPC over HTTP/2, and a message but for its last `following` bytes. */
function head(piece: Uint8Array, following: number, around: readonly Around[]): Uint8Array {
  let message = piece;
  for (const { before, field } of around.toReversed()) {
    const tag = new BinaryWriter().tag(field, WireType.LengthDelimited).uint32(message.length + following);
    message = concatenated([before, tag.finish(), message]);
  }
  return concatenated([envelopeHeader(message.length + following), message]);
}

function envelopeHeader(length: number): Uint8Array {
  const header = new Uint8Array(5);
  new DataView(header.buffer).setUint32(1, length);
  return header;
}

function pieceBytes(metadata: PieceMetadata): Uint8Array {
  return toBinary(PieceSchema, create(PieceSchema, pieceFields(metadata)));
}

function concatenated(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The pieces that the task has, and those that come. */
function watched(task: StoredTask, signal: AbortSignal): Iterable<PieceMetadata> | AsyncIterable<PieceMetadata> {
  return task.watch?.({ signal }) ?? task.pieces();
}

/** As stock peers name a task for DownloadTask: dragonfly-client, `grpc/dfdaemon_upload.rs`, `download_task`. */
function standardTaskId(download: Download): string {
  const { url, contentForCalculatingTaskId: content, pieceLength, tag, application, filteredQueryParams } = download;
  const revision = (download.huggingFace ?? download.modelScope)?.revision;
  if (content !== undefined) return taskIdOfContent(content);
  try {
    if (download.enableTaskIdBasedBlobDigest && isBlobUrl(url)) return taskIdOfBlob(url);
    return taskIdOfUrl({
      url,
      filteredQueryParams,
      ...(tag !== undefined && { tag }),
      ...(application !== undefined && { application }),
      ...(revision !== undefined && { revision }),
      ...(pieceLength !== undefined && { pieceLength: Number(pieceLength) }),
    });
  } catch (error) {
    throw invalid(VortexError.from(error, "InvalidArgument").message);
  }
}

/** The pieces that hold bytes of the range, or all, by number; those to come without a digest. */
function plannedPieces(task: StoredTask, range?: Range): Map<number, MessageInitShape<typeof PieceSchema>> {
  const plan = planTask(task.contentLength, task.pieceLength);
  const start = range?.start ?? 0n;
  const end = range === undefined ? BigInt(task.contentLength) : start + range.length;
  if (range !== undefined && (range.length === 0n || start >= BigInt(task.contentLength))) {
    throw invalid(`range ${start} to ${end}: the task has ${task.contentLength} bytes`);
  }
  const known = new Map(Array.from(task.pieces(), (piece) => [piece.number, piece]));
  const pieces = new Map<number, MessageInitShape<typeof PieceSchema>>();
  for (let number = Number(start / BigInt(task.pieceLength)); number < plan.pieceCount; number++) {
    const { offset, length } = pieceExtent(plan, number);
    if (BigInt(offset) >= end) break;
    const piece = known.get(number);
    const toCome = { number, offset: BigInt(offset), length: BigInt(length) };
    pieces.set(number, piece === undefined ? toCome : pieceFields(piece));
  }
  return pieces;
}

function requireTaskId(taskId: string): void {
  if (taskId === "") throw invalid("task_id is empty");
}

/** A peer that could name files here could read and replace any. */
function requireNoFile(outputPath: string | undefined): void {
  if (outputPath !== undefined) throw invalid("output_path: no files are written here for peers");
}

function isRange(header: string): boolean {
  return header.toLowerCase() === "range";
}

function invalid(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}

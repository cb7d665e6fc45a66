import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import {
  Code,
  ConnectError,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect";
// Connect calls these private, which its exact version in package.json answers for. They are what its own adapters stand on.
import {
  type UniversalHandler,
  type UniversalServerRequest,
  type UniversalServerResponse,
  untilFirst,
} from "@connectrpc/connect/protocol";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { metadataDigest } from "../digest/piece-metadata.ts";
import { VortexError } from "../errors.ts";
import { PieceSchema, SizeScope, type TaskSchema, TaskType, type TrafficType } from "../gen/common/v2/common_pb.ts";
import {
  DfdaemonUpload,
  DownloadPieceResponseSchema,
  type StatLocalTaskResponseSchema,
} from "../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { PieceKind, PieceMetadata } from "../piece.ts";
import type { PieceStore, StoredPiece, StoredTask } from "./store.ts";
import type { ServerSettings } from "./upload.ts";

/** Greatest request that is read, in bytes: those of this service hold a few ids. */
export const MAX_REQUEST_LENGTH: number = 64 * 1024;

/**
 * `dfdaemon.v2.DfdaemonUpload` over a store: DownloadPiece and its twins, StatTask and StatLocalTask. Other calls of the
 * service are answered with UNIMPLEMENTED.
 *
 * Handlers for whatever speaks HTTP/2. A failure inside reaches `settings.onError`, and the peer as INTERNAL without
 * details. Connect would have a piece in memory three times (content, message and envelope) before the first byte is sent,
 * and leave all of it to the HTTP/2 session's queue; so the content of pieces goes past it, as the store hands it out: the
 * body of such an answer takes a chunk when its reader asks for the next, and obeys the upload rate limit.
 */
export function grpcHandlers(store: PieceStore, settings: ServerSettings): readonly UniversalHandler[] {
  const piece = (kind: PieceKind) => async (request: PieceRequestFields, context: HandlerContext) => {
    context.values.set(answeredPiece, await findPiece(store, kind, request, context.signal, settings));
    return {};
  };
  const router = createConnectRouter({
    acceptCompression: [],
    connect: false,
    grpcWeb: false,
    readMaxBytes: MAX_REQUEST_LENGTH,
  });
  router.service(DfdaemonUpload, {
    downloadPiece: piece("standard"),
    downloadPersistentPiece: piece("persistent"),
    downloadPersistentCachePiece: piece("persistent-cache"),
    downloadCachePiece: piece("cache"),
    statTask: async (request, context) => taskMessage(await findTask(store, request, context, settings)),
    statLocalTask: async (request, context) => localTaskMessage(await findTask(store, request, context, settings)),
  });
  return router.handlers.map((handler) => streamingPieces(handler, settings));
}

/** The request of DownloadPiece and its twins. */
interface PieceRequestFields {
  readonly taskId: string;
  readonly pieceNumber: number;
}

/** Carries the piece from a method's implementation to the body of its answer. */
const answeredPiece = createContextKey<StoredPiece | undefined>(undefined);

async function findPiece(
  store: PieceStore,
  kind: PieceKind,
  { taskId, pieceNumber: number }: PieceRequestFields,
  signal: AbortSignal,
  settings: ServerSettings,
): Promise<StoredPiece> {
  requireTaskId(taskId);
  const piece = await reading(() => store.getPiece({ taskId, number, kind }, { signal }), "the piece", settings);
  if (piece === undefined) {
    throw new ConnectError(`${kind} piece ${number} of task ${taskId} is not here`, Code.NotFound);
  }
  return piece;
}

async function findTask(
  store: PieceStore,
  { taskId }: { readonly taskId: string },
  { signal }: HandlerContext,
  settings: ServerSettings,
): Promise<StoredTask> {
  requireTaskId(taskId);
  const task = await reading(() => store.getTask(taskId, { signal }), "the task", settings);
  if (task === undefined) throw new ConnectError(`task ${taskId} is not here`, Code.NotFound);
  return task;
}

function requireTaskId(taskId: string): void {
  if (taskId === "") throw new ConnectError("task_id is empty", Code.InvalidArgument);
}

/** What went wrong inside is not the peer's to know. */
async function reading<T>(read: () => Promise<T>, what: string, settings: ServerSettings): Promise<T> {
  try {
    return await read();
  } catch (error) {
    settings.onError(VortexError.from(error, "StorageFailed"));
    throw unreadable(what);
  }
}

function unreadable(what: string): ConnectError {
  return new ConnectError(`${what} could not be read`, Code.Internal);
}

/** A handler that, where the method's implementation answered with a piece, sends that instead of Connect's message. */
function streamingPieces(handler: UniversalHandler, settings: ServerSettings): UniversalHandler {
  const answer = async (request: UniversalServerRequest): Promise<UniversalServerResponse> => {
    const contextValues = request.contextValues ?? createContextValues();
    const response = await handler({ ...request, contextValues });
    const piece = contextValues.get(answeredPiece);
    if (piece === undefined) return response;
    // Connect ends the call, and its timer for the peer's deadline, when its own message has been taken.
    for await (const _message of response.body ?? []);
    const trailer = new Headers(response.trailer);
    // The first read decides what is said before the content.
    return { ...response, trailer, body: await untilFirst(pieceBody(piece, trailer, request.signal, settings)) };
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

/** The answer of DownloadPiece, envelope and message. A failure of the store goes to the trailer, and ends it early. */
async function* pieceBody(
  piece: StoredPiece,
  trailer: Headers,
  signal: AbortSignal,
  settings: ServerSettings,
): AsyncGenerator<Uint8Array, void, undefined> {
  let head: Uint8Array | undefined = pieceHead(piece.metadata, settings);
  const chunks = piece.read()[Symbol.asyncIterator]();
  try {
    for (let left = Number(piece.metadata.length); left > 0; ) {
      let chunk: Uint8Array;
      try {
        chunk = await nextChunk(chunks, left);
      } catch (error) {
        settings.onError(VortexError.from(error, "StorageFailed"));
        setTrailerStatus(trailer, unreadable("the piece"));
        return;
      }
      for (const portion of settings.limiter?.portions(chunk) ?? [chunk]) {
        await settings.limiter?.take(portion.length, signal);
        if (signal.aborted) return;
        // Not before there is content: a piece that cannot be read at all is answered by a status alone.
        if (head !== undefined) yield head;
        head = undefined;
        yield portion;
      }
      left -= chunk.length;
    }
    // Of an empty piece.
    if (head !== undefined) yield head;
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

/**
 * Everything of the answer that comes before the content: the envelope's header (a flag and the length, as in gRPC over
 * HTTP/2), and the message up to the content. The content is the last field of the piece, and the piece the last of the
 * answer: readers take fields in any order (https://protobuf.dev/programming-guides/encoding/#order).
 */
function pieceHead(metadata: PieceMetadata, settings: ServerSettings): Uint8Array {
  const { piece, digest } = DownloadPieceResponseSchema.field;
  const length = Number(metadata.length);
  const fields = toBinary(PieceSchema, create(PieceSchema, pieceFields(metadata)));
  const content = new BinaryWriter().tag(PieceSchema.field.content.number, WireType.LengthDelimited).uint32(length);
  const pieceHeader = [fields, content.finish()];
  const pieceLength = pieceHeader.reduce((sum, part) => sum + part.length, length);
  const message = new BinaryWriter()
    .tag(digest.number, WireType.LengthDelimited)
    .string(metadataDigest("crc32", metadata, settings.runtime.hashers))
    .tag(piece.number, WireType.LengthDelimited)
    .uint32(pieceLength)
    .finish();
  const envelope = new Uint8Array(5);
  new DataView(envelope.buffer).setUint32(1, message.length + pieceLength);
  return concatenated([envelope, message, ...pieceHeader]);
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

/** A piece without its content. */
function pieceFields(metadata: PieceMetadata): MessageInitShape<typeof PieceSchema> {
  const { number, offset, length, digest, parentId, costSeconds, createdAtSeconds } = metadata;
  return {
    number,
    offset,
    length,
    digest,
    ...(parentId !== "" && { parentId }),
    // Enums of proto3 are open: a value without a name is carried as it is.
    trafficType: metadata.trafficType as TrafficType,
    cost: { seconds: costSeconds },
    createdAt: { seconds: createdAtSeconds },
  };
}

const taskTypes: Record<PieceKind, TaskType> = {
  standard: TaskType.STANDARD,
  persistent: TaskType.PERSISTENT,
  "persistent-cache": TaskType.PERSISTENT_CACHE,
  cache: TaskType.CACHE,
};

/** StatTask: what a scheduler would say of the task, if this peer were the only one to have it. */
function taskMessage(task: StoredTask): MessageInitShape<typeof TaskSchema> {
  const { contentLength, pieceLength, digest, createdAtSeconds: seconds } = task;
  const pieceCount = Math.ceil(contentLength / pieceLength);
  const pieces = Array.from(task.pieces(), pieceFields);
  return {
    id: task.taskId,
    type: taskTypes[task.kind],
    ...(digest !== undefined && { digest }),
    contentLength: BigInt(contentLength),
    pieceCount,
    sizeScope: sizeScopeOf(contentLength, pieceCount),
    pieces,
    // Names of the scheduler's states for a task that is complete, and for one that is being fetched.
    state: pieces.length === pieceCount ? "Succeeded" : "Running",
    peerCount: 1,
    hasAvailablePeer: true,
    createdAt: { seconds },
    updatedAt: { seconds },
  };
}

function sizeScopeOf(contentLength: number, pieceCount: number): SizeScope {
  if (contentLength === 0) return SizeScope.EMPTY;
  if (contentLength < 128) return SizeScope.TINY;
  return pieceCount === 1 ? SizeScope.SMALL : SizeScope.NORMAL;
}

function localTaskMessage(task: StoredTask): MessageInitShape<typeof StatLocalTaskResponseSchema> {
  const { taskId, contentLength, pieceLength, createdAtSeconds: seconds } = task;
  return {
    taskId,
    pieceLength: BigInt(pieceLength),
    contentLength: BigInt(contentLength),
    createdAt: { seconds },
    updatedAt: { seconds },
  };
}

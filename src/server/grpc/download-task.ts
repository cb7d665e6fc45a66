import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { HasherFactory } from "../../digest/hasher.ts";
import type { Range } from "../../gen/common/v2/common_pb.ts";
import {
  type DownloadPersistentCacheTaskRequest,
  DownloadPersistentCacheTaskResponseSchema,
  DownloadPersistentCacheTaskStartedResponseSchema,
  type DownloadPersistentTaskRequest,
  DownloadPersistentTaskResponseSchema,
  DownloadPersistentTaskStartedResponseSchema,
  type DownloadTaskRequest,
  DownloadTaskResponseSchema,
  DownloadTaskStartedResponseSchema,
} from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { type IdVersion, persistentTaskId } from "../../ids.ts";
import type { PieceKind } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";
import { type ResponseIds, responseIds } from "./advertised.ts";
import { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import {
  contentBody,
  contentHead,
  type EnclosingMessage,
  enclosed,
  enclosingMessages,
  withoutContent,
} from "./content.ts";
import { listingOf } from "./listing.ts";
import { piecesOf } from "./lookup.ts";
import { responseHeader } from "./messages.ts";
import {
  invalid,
  isRange,
  numbersIn,
  requestedTaskId,
  requireNoFile,
  spanOf,
  wantedPieces,
} from "./requests.ts";
import type { UploadService } from "./upload-service.ts";

/** Call of DownloadTask, DownloadPersistentTask or DownloadPersistentCacheTask. */
export interface TaskDownload {
  readonly kind: PieceKind;
  readonly taskId: string;
  /** Requested bytes of the task. Undefined requests all. */
  readonly range: Range | undefined;
  /**
   * True if the peer requests the content of the pieces, false if it requests only their metadata.
   */
  readonly needsContent: boolean;
  /** Fields of the message that the method responds with. */
  readonly response: ResponseFields;
}

/** Fields of DownloadTaskResponse, or of the response of a variant. */
interface ResponseFields {
  /** Number of the field with the first message, which announces the content length. */
  readonly started: number;
  /** Number of the field with a finished piece. */
  readonly finished: number;
  /** Encodes the ID fields. */
  encodeIds(ids: ResponseIds): Uint8Array;
  /** Encodes the first message of a response about `task`. */
  encodeStarted(task: StoredTask, range: Range | undefined): Uint8Array;
}

/**
 * Reads the request of DownloadTask.
 *
 * @throws INVALID_ARGUMENT if the request has no task, names an output file, or has a Range header
 */
export function standardDownload(
  { download }: DownloadTaskRequest,
  idVersion: IdVersion,
): TaskDownload {
  if (download === undefined) throw invalid("download: expected a message, got none");
  requireNoFile(download.outputPath);
  if (download.range === undefined && Object.keys(download.requestHeader).some(isRange))
    throw invalid("range: expected the field range, got a Range header");
  return {
    kind: "standard",
    taskId: requestedTaskId(download, idVersion),
    range: download.range,
    needsContent: download.needPieceContent,
    response: standardResponse,
  };
}

/**
 * Reads the request of DownloadPersistentTask.
 *
 * @throws INVALID_ARGUMENT if the request names an output file, or lacks a region or an endpoint
 */
export function persistentDownload(
  { url, outputPath, objectStorage, needPieceContent }: DownloadPersistentTaskRequest,
  hashers: HasherFactory,
): TaskDownload {
  requireNoFile(outputPath);
  const { region, endpoint } = objectStorage ?? {};
  if (region === undefined || endpoint === undefined) {
    const missing = region === undefined ? "no region" : "no endpoint";
    throw invalid(`object_storage: expected a region and an endpoint, got ${missing}`);
  }
  return {
    kind: "persistent",
    taskId: persistentTaskId({ url, region, endpoint }, hashers),
    range: undefined,
    needsContent: needPieceContent,
    response: persistentResponse,
  };
}

/**
 * Reads the request of DownloadPersistentCacheTask.
 *
 * @throws INVALID_ARGUMENT if the request names an output file
 */
export function persistentCacheDownload({
  taskId,
  outputPath,
  needPieceContent,
}: DownloadPersistentCacheTaskRequest): TaskDownload {
  requireNoFile(outputPath);
  return {
    kind: "persistent-cache",
    taskId,
    range: undefined,
    needsContent: needPieceContent,
    response: persistentCacheResponse,
  };
}

/**
 * Implements DownloadTask and its variants. Yields a first message with the content length, then
 * one message for each requested piece, as soon as the piece is in the store.
 */
export async function* downloadTask(
  service: UploadService,
  { kind, taskId, range, needsContent, response }: TaskDownload,
  call: Call,
): AsyncGenerator<Uint8Array, void, void> {
  const { settings, advertised, lookup } = service;
  const task = await lookup.task(kind, taskId, call.signal);
  const wanted = wantedPieces(task, numbersIn(spanOf(task, range)));
  const ids = response.encodeIds(responseIds(advertised, taskId, call.localIp, settings.runtime));
  const started = response.encodeStarted(task, range);
  const answer = new Answer(settings.telemetry, {
    name: "download_task",
    taskId,
    kind,
    headers: call.headers,
  });
  yield* answer.stream(messages());

  async function* messages(): AsyncGenerator<Uint8Array, void, void> {
    const slot = service.slots.take(call.network, call.signal);
    try {
      yield enclosed(started, [{ before: ids, field: response.started }]);
      const enclosing = enclosingMessages(ids, response.finished);
      for await (const metadata of piecesOf(task, slot.signal)) {
        slot.throwIfEnded();
        if (!wanted.delete(metadata.number)) continue;
        if (needsContent) yield* contentOf(metadata.number, enclosing, slot.signal);
        else yield withoutContent(metadata, enclosing);
        if (wanted.size === 0) break;
      }
    } catch (error) {
      slot.throwIfEnded();
      throw error;
    } finally {
      slot.leave();
    }
    // The task was abandoned.
    if (wanted.size > 0)
      throw new ConnectError(`${wanted.size} pieces: not in the store`, Code.NotFound);
  }

  async function* contentOf(
    number: number,
    enclosing: readonly EnclosingMessage[],
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    const piece = await lookup.piece(kind, taskId, number, signal);
    const head = contentHead(piece.metadata, enclosing);
    yield* contentBody(piece, head, call.network, signal, settings);
    answer.bytes += Number(piece.metadata.length);
  }
}

const standardResponse: ResponseFields = {
  started: DownloadTaskResponseSchema.field.downloadTaskStartedResponse.number,
  finished: DownloadTaskResponseSchema.field.downloadPieceFinishedResponse.number,
  encodeIds: (ids) => toBinary(DownloadTaskResponseSchema, create(DownloadTaskResponseSchema, ids)),
  encodeStarted: (task, range) => {
    const started = create(DownloadTaskStartedResponseSchema, {
      contentLength: BigInt(task.contentLength),
      ...(range !== undefined && { range }),
      responseHeader: responseHeader(task),
      isFinished: task.complete !== false,
    });
    const pieces = DownloadTaskStartedResponseSchema.field.pieces.number;
    started.$unknown = listingOf(task).planned(task, pieces, spanOf(task, range));
    return toBinary(DownloadTaskStartedResponseSchema, started);
  },
};

const persistentResponse: ResponseFields = {
  started: DownloadPersistentTaskResponseSchema.field.downloadPersistentTaskStartedResponse.number,
  finished: DownloadPersistentTaskResponseSchema.field.downloadPieceFinishedResponse.number,
  encodeIds: (ids) =>
    toBinary(
      DownloadPersistentTaskResponseSchema,
      create(DownloadPersistentTaskResponseSchema, ids),
    ),
  encodeStarted: ({ contentLength: length }) => {
    const schema = DownloadPersistentTaskStartedResponseSchema;
    return toBinary(schema, create(schema, { contentLength: BigInt(length) }));
  },
};

const persistentCacheResponse: ResponseFields = {
  started:
    DownloadPersistentCacheTaskResponseSchema.field.downloadPersistentCacheTaskStartedResponse
      .number,
  finished: DownloadPersistentCacheTaskResponseSchema.field.downloadPieceFinishedResponse.number,
  encodeIds: (ids) =>
    toBinary(
      DownloadPersistentCacheTaskResponseSchema,
      create(DownloadPersistentCacheTaskResponseSchema, ids),
    ),
  encodeStarted: ({ contentLength: length }) => {
    const schema = DownloadPersistentCacheTaskStartedResponseSchema;
    return toBinary(schema, create(schema, { contentLength: BigInt(length) }));
  },
};

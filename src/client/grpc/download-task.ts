import type { DescMessage } from "@bufbuild/protobuf";
import type { Client, CallOptions as ConnectCallOptions } from "@connectrpc/connect";
import type { HasherFactory } from "../../digest/hasher.ts";
import { remoteText, VortexError } from "../../errors.ts";
import {
  DfdaemonUpload,
  type DownloadPieceFinishedResponse,
} from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import {
  type ObjectIdentity,
  persistentTaskId,
  taskIdOfBlob,
  taskIdOfContent,
  taskIdOfUrl,
  type UrlIdentity,
} from "../../ids.ts";
import { type PieceMetadata, requireInteger } from "../../piece.ts";
import type { CallScope } from "../call/scope.ts";
import type { CallOptions, DownloaderSettings } from "../downloader.ts";
import { metadataOf, verifyContent } from "./download-piece.ts";
import { type PieceExtent, PieceLayout } from "./piece-layout.ts";

/**
 * Names a task for DownloadTask, which takes the parts of its id and not the id: a peer that does not have the task can fetch it
 * from there. The id is made of them here too, and the peer's answer is checked against it.
 */
export type TaskIdentity =
  | StandardTaskIdentity
  | PersistentTaskIdentity
  | PersistentCacheTaskIdentity;

/** A standard task. */
export interface StandardTaskIdentity extends UrlIdentity {
  readonly kind?: "standard";
  /** Makes the id of this text, instead of the URL and what goes with it. */
  readonly content?: string;
  /** Makes the id of the digest that an OCI blob's URL ends in. Default false. */
  readonly blobDigest?: boolean;
  /** For the origin. */
  readonly requestHeader?: Readonly<Record<string, string>>;
  /** Fails instead of fetching from the origin. Default false. */
  readonly disableBackToSource?: boolean;
}

/** A persistent task. */
export interface PersistentTaskIdentity extends ObjectIdentity {
  readonly kind: "persistent";
}

/** A persistent cache task. */
export interface PersistentCacheTaskIdentity {
  readonly kind: "persistent-cache";
  readonly taskId: string;
}

/** How a task is fetched over gRPC. */
export interface DownloadTaskOptions extends CallOptions {
  /** Fetches only the pieces that hold these bytes of a standard task; `end` is exclusive. */
  readonly range?: { readonly start: number; readonly end: number };
}

/** A piece with its content, which has the length and the digest that were announced. */
export interface FetchedPiece extends PieceExtent {
  /** The digest that its content agreed with, as the peer tells it. */
  readonly digest: string;
  /** Everything that the peer said. */
  readonly metadata: PieceMetadata;
  /** All bytes of the piece. */
  readonly content: Uint8Array;
}

/**
 * A task on its way in: iterate it, once, or `cancel()` it. Pieces come in any order, each once, and the iteration ends only
 * when all have come; else it throws.
 */
export interface TaskPieces extends AsyncIterable<FetchedPiece> {
  /** The task. */
  readonly taskId: string;
  /** Bytes of the task, also when a range of it was asked for. */
  readonly contentLength: number;
  /** Of the serving peer's host. */
  readonly hostId: string;
  /** Of the serving peer. */
  readonly peerId: string;
  /** Gives the rest up. Idempotent. */
  cancel(): void;
}

/** An answer of DownloadTask or a twin. */
export interface TaskMessage {
  readonly hostId: string;
  readonly taskId: string;
  readonly peerId: string;
  readonly response:
    | {
        readonly case: "downloadPieceFinishedResponse";
        readonly value: DownloadPieceFinishedResponse;
      }
    | { readonly case: StartedCase; readonly value: { readonly contentLength: bigint } }
    | { readonly case: undefined; readonly value?: undefined };
}

type StartedCase =
  | "downloadTaskStartedResponse"
  | "downloadPersistentTaskStartedResponse"
  | "downloadPersistentCacheTaskStartedResponse";

/** The task's id. @throws `InvalidArgument` */
export function taskIdOf(source: TaskIdentity, hashers: HasherFactory): string {
  if (source.kind === "persistent") return persistentTaskId(source, hashers);
  if (source.kind === "persistent-cache") return source.taskId;
  if (source.content !== undefined) return taskIdOfContent(source.content, hashers);
  return source.blobDigest ? taskIdOfBlob(source.url) : taskIdOfUrl(source, hashers);
}

/** Makes the call for the task's kind. @throws `InvalidArgument` */
export function downloadCall(
  client: Client<typeof DfdaemonUpload>,
  source: TaskIdentity,
  { range }: DownloadTaskOptions,
  options: ConnectCallOptions,
): AsyncIterable<TaskMessage> {
  const needPieceContent = true;
  if (source.kind === "persistent") {
    const { url, region, endpoint } = source;
    return client.downloadPersistentTask(
      { url, objectStorage: { region, endpoint }, needPieceContent },
      options,
    );
  }
  if (source.kind === "persistent-cache") {
    return client.downloadPersistentCacheTask({ taskId: source.taskId, needPieceContent }, options);
  }
  const {
    url,
    filteredQueryParams = [],
    tag,
    application,
    revision,
    pieceLength,
    content,
  } = source;
  const download = {
    url,
    filteredQueryParams: [...filteredQueryParams],
    ...(tag !== undefined && { tag }),
    ...(application !== undefined && { application }),
    ...(revision !== undefined && hubOf(url, revision)),
    ...(pieceLength !== undefined && { pieceLength: BigInt(pieceLength) }),
    ...(content !== undefined && { contentForCalculatingTaskId: content }),
    ...(range !== undefined && {
      range: { start: BigInt(range.start), length: BigInt(range.end - range.start) },
    }),
    enableTaskIdBasedBlobDigest: source.blobDigest ?? false,
    requestHeader: { ...source.requestHeader },
    disableBackToSource: source.disableBackToSource ?? false,
    needPieceContent,
  };
  return client.downloadTask({ download }, options);
}

/** Of the answers to {@link downloadCall}. */
export function downloadSchema({ kind }: TaskIdentity): DescMessage {
  const { downloadTask, downloadPersistentTask, downloadPersistentCacheTask } =
    DfdaemonUpload.method;
  if (kind === "persistent") return downloadPersistentTask.output;
  return (kind === "persistent-cache" ? downloadPersistentCacheTask : downloadTask).output;
}

/** @throws `InvalidArgument` for a range that is empty, or of a task of a kind that has none */
export function requireRange(source: TaskIdentity, { range }: DownloadTaskOptions): void {
  if (range === undefined) return;
  if (source.kind === "persistent" || source.kind === "persistent-cache") {
    throw new VortexError(
      "InvalidArgument",
      `a range of a ${source.kind} task cannot be asked for over gRPC`,
    );
  }
  requireInteger("range.start", range.start, 0, Number.MAX_SAFE_INTEGER - 1);
  requireInteger("range.end", range.end, range.start + 1, Number.MAX_SAFE_INTEGER);
}

/** The revision is a part of the access to a model hub, which the URL's scheme names. */
function hubOf(url: string, revision: string): object {
  const scheme = url.slice(0, url.indexOf(":")).toLowerCase();
  if (scheme === "hf") return { huggingFace: { revision } };
  if (scheme === "modelscope") return { modelScope: { revision } };
  throw new VortexError(
    "InvalidArgument",
    `"${url}" with a revision: expected a URL of hf: or modelscope:`,
  );
}

/** The {@link TaskPieces} of a call. */
export class StreamedTask implements TaskPieces {
  readonly taskId: string;
  readonly contentLength: number;
  readonly hostId: string;
  readonly peerId: string;
  readonly #messages: AsyncIterator<TaskMessage>;
  readonly #scope: CallScope;
  readonly #settings: DownloaderSettings;
  readonly #addr: string;
  readonly #start: number;
  readonly #end: number;
  #taken = false;
  #bytes = 0;

  private constructor(
    { taskId, hostId, peerId }: TaskMessage,
    contentLength: number,
    messages: AsyncIterator<TaskMessage>,
    { range, scope, settings, addr }: StreamOptions,
  ) {
    this.taskId = taskId;
    this.hostId = hostId;
    this.peerId = peerId;
    this.contentLength = contentLength;
    this.#messages = messages;
    this.#scope = scope;
    this.#settings = settings;
    this.#addr = addr;
    this.#start = range?.start ?? 0;
    this.#end = Math.min(range?.end ?? contentLength, contentLength);
  }

  /** Waits for the first answer. @throws `TruncatedContent`, `ProtocolViolation`, `LimitExceeded` */
  static async begin(
    messages: AsyncIterator<TaskMessage>,
    options: StreamOptions,
  ): Promise<StreamedTask> {
    const { addr, taskId } = options;
    const first = await messages.next();
    if (first.done)
      throw new VortexError("TruncatedContent", "the answer ended before the task began", { addr });
    const { response } = first.value;
    if (response.case === undefined || response.case === "downloadPieceFinishedResponse") {
      throw new VortexError(
        "ProtocolViolation",
        "the answer does not begin with what the task is",
        { addr },
      );
    }
    if (first.value.taskId !== taskId) {
      const told = remoteText(first.value.taskId, 80);
      throw new VortexError("ProtocolViolation", `asked for task ${taskId}, got task ${told}`, {
        addr,
      });
    }
    const { contentLength } = response.value;
    if (contentLength > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new VortexError(
        "LimitExceeded",
        `a task of ${contentLength} bytes announced: beyond 2^53`,
        { addr },
      );
    }
    return new StreamedTask(first.value, Number(contentLength), messages, options);
  }

  /** Bytes of content that have come. */
  get bytes(): number {
    return this.#bytes;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FetchedPiece, void, void> {
    if (this.#taken)
      throw new VortexError("InvalidArgument", "the pieces of this task are being read already");
    this.#taken = true;
    const { maxPieceLength } = this.#settings;
    const layout = new PieceLayout({
      addr: this.#addr,
      maxPieceLength,
      contentLength: this.contentLength,
    });
    try {
      for (let next = await this.#next(); !next.done; next = await this.#next())
        yield this.#accept(next.value, layout);
      this.#requireAll(layout);
      this.#scope.finish();
    } catch (error) {
      throw this.#scope.end(error);
    } finally {
      this.cancel();
    }
  }

  cancel(): void {
    this.#scope.fail(
      new VortexError("Aborted", `the download of task ${this.taskId} was cancelled`),
    );
  }

  #next(): Promise<IteratorResult<TaskMessage>> {
    if (this.#scope.failure !== undefined) throw this.#scope.failure;
    return this.#messages.next();
  }

  #accept({ response }: TaskMessage, layout: PieceLayout): FetchedPiece {
    const addr = this.#addr;
    const piece =
      response.case === "downloadPieceFinishedResponse" ? response.value.piece : undefined;
    if (piece === undefined)
      throw new VortexError("ProtocolViolation", "an answer without a piece came", { addr });
    if (piece.content === undefined) {
      throw new VortexError("ProtocolViolation", `piece ${piece.number} came without its content`, {
        addr,
      });
    }
    const metadata = metadataOf(piece);
    const extent = layout.accept(metadata);
    if (extent.offset >= this.#end || extent.offset + extent.length <= this.#start) {
      throw new VortexError(
        "ProtocolViolation",
        `piece ${piece.number} came, which was not asked for`,
        { addr },
      );
    }
    verifyContent(piece.content, metadata, addr, this.#settings);
    this.#bytes += extent.length;
    return { ...extent, digest: piece.digest, metadata, content: piece.content };
  }

  #requireAll({ count, pieceLength }: PieceLayout): void {
    const expected =
      pieceLength === undefined
        ? Math.min(1, Math.max(0, this.#end - this.#start))
        : Math.ceil(this.#end / pieceLength) - Math.floor(this.#start / pieceLength);
    if (count === expected) return;
    const message = `the answer ended after ${count} of ${pieceLength === undefined ? "all" : expected} pieces`;
    throw new VortexError("TruncatedContent", message, { addr: this.#addr });
  }
}

/** What the iteration of a task's pieces needs. */
export interface StreamOptions {
  /** The id that was asked for. */
  readonly taskId: string;
  readonly range?: { readonly start: number; readonly end: number } | undefined;
  readonly scope: CallScope;
  readonly settings: DownloaderSettings;
  readonly addr: string;
}

import type { Client, CallOptions as ConnectCallOptions } from "@connectrpc/connect";
import { requireInteger } from "../../arguments.ts";
import type { HasherFactory } from "../../digest/hasher.ts";
import { remoteText, VortexError } from "../../errors.ts";
import type {
  DfdaemonUpload,
  DownloadPieceFinishedResponse,
} from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import {
  type ObjectIdentity,
  persistentTaskId,
  type StandardIdentity,
  standardTaskId,
} from "../../ids.ts";
import type { PieceMetadata, UnverifiedPieces } from "../../piece.ts";
import { unshared } from "../../unshared.ts";
import type { CallScope } from "../call/scope.ts";
import type { CallOptions, DownloaderSettings } from "../downloader.ts";
import { toMetadata, verifyContent } from "./download-piece.ts";
import { type PieceExtent, PieceLayout } from "./piece-layout.ts";
import { knownLength } from "./unknown-length.ts";

/**
 * Identity of a task for the RPC method DownloadTask. Except for persistent cache tasks, it names
 * the origin of the content instead of the task id. So a peer without the task can fetch it from
 * the origin.
 *
 * The task id is also computed locally, and compared with the task id in the peer's response.
 */
export type TaskIdentity =
  | StandardTaskIdentity
  | PersistentTaskIdentity
  | PersistentCacheTaskIdentity;

/** Identity of a standard task: its URL, and the parameters from which its id is computed. */
export interface StandardTaskIdentity extends StandardIdentity {
  /** Kind of the task. Default `standard`. */
  readonly kind?: "standard";
  /** HTTP request headers that the peer sends to the origin. */
  readonly requestHeader?: Readonly<Record<string, string>>;
  /**
   * True to forbid the peer to fetch the task from the origin. The call fails if the peer would
   * have to. Default false.
   */
  readonly disableBackToSource?: boolean;
}

/** Identity of a persistent task: its object in an object storage. */
export interface PersistentTaskIdentity extends ObjectIdentity {
  /** Kind of the task. */
  readonly kind: "persistent";
}

/** Identity of a persistent cache task: its task id. */
export interface PersistentCacheTaskIdentity {
  /** Kind of the task. */
  readonly kind: "persistent-cache";
  /** ID of the task, 64 characters. */
  readonly taskId: string;
}

/** Options of {@link GrpcDownloader.downloadTask}: byte range, abort signal and timeouts. */
export interface DownloadTaskOptions extends CallOptions {
  /**
   * Byte range of the task; `end` is exclusive. Only pieces that overlap it are fetched, each as a
   * whole. For standard tasks only. Default: all pieces.
   */
  readonly range?: { readonly start: number; readonly end: number } | undefined;
  /**
   * Policy for a piece without a digest, see {@link UnverifiedPieces}. Default: the value of the
   * downloader, `accept`.
   */
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
}

/**
 * Received piece with its content. Length and digest of the content are verified; only the length,
 * if the peer announced no digest.
 */
export interface FetchedPiece extends PieceExtent {
  /**
   * Digest of the content as announced by the peer, `algorithm:encoded`. Empty if it announced
   * none.
   */
  readonly digest: string;
  /** Metadata of the piece as received from the peer. */
  readonly metadata: PieceMetadata;
  /** All bytes of the piece. */
  readonly content: Uint8Array<ArrayBuffer>;
}

/**
 * Task that a peer is sending. Iterate it once, or call `cancel()`. The iteration yields each piece
 * once, in any order. It ends after the last requested piece, and throws if a piece is missing.
 */
export interface TaskPieces extends AsyncIterable<FetchedPiece> {
  /** Id of the task. */
  readonly taskId: string;
  /**
   * Length of the whole task in bytes, even if only a range was requested. Undefined if the peer
   * does not know it when it starts to send.
   */
  readonly contentLength: number | undefined;
  /** Id of the host that sends the task. */
  readonly hostId: string;
  /** Id of the peer that sends the task. */
  readonly peerId: string;
  /** Cancels the transfer of the pieces that have not been received. Idempotent. */
  cancel(): void;
}

/** Message in the response stream of DownloadTask, or of its variants for other kinds of task. */
export interface TaskMessage {
  /** ID of the host that answers. */
  readonly hostId: string;
  /** ID of the task. */
  readonly taskId: string;
  /** ID of the peer that answers. */
  readonly peerId: string;
  /** Start of the task with its lengths, or one piece. */
  readonly response:
    | {
        readonly case: "downloadPieceFinishedResponse";
        readonly value: DownloadPieceFinishedResponse;
      }
    | { readonly case: StartedCase; readonly value: { readonly contentLength: bigint } }
    | { readonly case: undefined; readonly value?: undefined };
}

/** Types of the first message in the response stream, one for each kind of task. */
type StartedCase =
  | "downloadTaskStartedResponse"
  | "downloadPersistentTaskStartedResponse"
  | "downloadPersistentCacheTaskStartedResponse";

/**
 * Computes the id of a task.
 *
 * @throws `InvalidArgument` if the id cannot be computed, for example from an invalid URL
 */
export function taskIdOf(source: TaskIdentity, hashers: HasherFactory): string {
  if (source.kind === "persistent") {
    const { kind: _, ...object } = source;
    return persistentTaskId(object, hashers);
  }
  if (source.kind === "persistent-cache") return source.taskId;
  const { kind, requestHeader, disableBackToSource, ...identity } = source;
  return standardTaskId(identity, hashers);
}

/**
 * Calls DownloadTask, or its variant for the kind of the task. Returns the messages of the
 * response.
 *
 * @throws `InvalidArgument` if the task has a revision, but its URL does not name a model hub
 */
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

/**
 * Checks the byte range of a task download.
 *
 * @throws `InvalidArgument` if the range is empty or invalid, or the task is not a standard task
 */
export function requireRange(source: TaskIdentity, { range }: DownloadTaskOptions): void {
  if (range === undefined) return;
  if (source.kind === "persistent" || source.kind === "persistent-cache") {
    throw new VortexError(
      "InvalidArgument",
      `range over gRPC: expected a standard task, got a ${source.kind} one`,
    );
  }
  requireInteger("range.start", range.start, 0, Number.MAX_SAFE_INTEGER - 1);
  requireInteger("range.end", range.end, range.start + 1, Number.MAX_SAFE_INTEGER);
}

/**
 * Returns the model-hub options of a DownloadTask request with a revision. The scheme of the URL
 * names the hub.
 *
 * @throws `InvalidArgument` if the scheme is neither `hf` nor `modelscope`
 */
function hubOf(url: string, revision: string): object {
  const scheme = url.slice(0, url.indexOf(":")).toLowerCase();
  if (scheme === "hf") return { huggingFace: { revision } };
  if (scheme === "modelscope") return { modelScope: { revision } };
  throw new VortexError(
    "InvalidArgument",
    `URL with a revision: expected scheme hf: or modelscope:, got "${url}"`,
  );
}

/** Task that is read from the response stream of one DownloadTask call. */
export class StreamedTask implements TaskPieces {
  readonly taskId: string;
  readonly contentLength: number | undefined;
  readonly hostId: string;
  readonly peerId: string;
  readonly #heldPieces: () => AsyncIterable<FetchedPiece>;
  readonly #messages: AsyncIterator<TaskMessage>;
  readonly #scope: CallScope;
  readonly #settings: DownloaderSettings;
  readonly #addr: string;
  readonly #policy: UnverifiedPieces;
  readonly #start: number;
  readonly #end: number;
  #taken = false;
  #bytes = 0;

  private constructor(
    { taskId, hostId, peerId }: Pick<TaskMessage, "taskId" | "hostId" | "peerId">,
    contentLength: number | undefined,
    messages: AsyncIterator<TaskMessage>,
    { range, scope, settings, addr, unverifiedPieces, heldPieces }: StreamOptions,
  ) {
    this.taskId = taskId;
    this.hostId = hostId;
    this.peerId = peerId;
    this.contentLength = contentLength;
    this.#heldPieces = heldPieces;
    this.#messages = messages;
    this.#scope = scope;
    this.#settings = settings;
    this.#addr = addr;
    this.#policy = unverifiedPieces ?? settings.unverifiedPieces;
    this.#start = range?.start ?? 0;
    const length = contentLength ?? Number.POSITIVE_INFINITY;
    this.#end = Math.min(range?.end ?? length, length);
  }

  /**
   * Waits for the first message of the response, and checks it. A response without a message is
   * that of a peer that has the task already. Its host ID and peer ID are then empty.
   *
   * @throws `ProtocolViolation` if the first message is of another type, or names another task
   * @throws `LimitExceeded` if the task is longer than 2^53 - 1 bytes
   */
  static async begin(
    messages: AsyncIterator<TaskMessage>,
    options: StreamOptions,
  ): Promise<StreamedTask> {
    const { addr, taskId } = options;
    const first = await messages.next();
    // dfdaemon 1.4.1 and later sends no message for a task that it has completely.
    if (first.done) {
      return new StreamedTask({ taskId, hostId: "", peerId: "" }, undefined, messages, options);
    }
    const { response } = first.value;
    if (response.case === undefined || response.case === "downloadPieceFinishedResponse") {
      throw new VortexError(
        "ProtocolViolation",
        `first message: expected a started message, got ${response.case ?? "none"}`,
        { addr },
      );
    }
    if (first.value.taskId !== taskId) {
      const got = remoteText(first.value.taskId, 80);
      throw new VortexError("ProtocolViolation", `task id: expected ${taskId}, got ${got}`, {
        addr,
      });
    }
    const contentLength = knownLength(response.value.contentLength);
    if (contentLength !== undefined && contentLength > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new VortexError(
        "LimitExceeded",
        `length of the task: expected at most 2^53 - 1 bytes, got ${contentLength}`,
        { addr },
      );
    }
    const length = contentLength === undefined ? undefined : Number(contentLength);
    return new StreamedTask(first.value, length, messages, options);
  }

  /** Number of content bytes received so far. */
  get bytes(): number {
    return this.#bytes;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FetchedPiece, void, void> {
    if (this.#taken) {
      throw new VortexError(
        "InvalidArgument",
        "pieces of the task: expected one iteration, got a second one",
      );
    }
    this.#taken = true;
    const { maxPieceLength } = this.#settings;
    const layout = new PieceLayout({
      addr: this.#addr,
      maxPieceLength,
      ...(this.contentLength !== undefined && { contentLength: this.contentLength }),
    });
    try {
      for (let next = await this.#next(); !next.done; next = await this.#next())
        yield this.#accept(next.value, layout);
      if (layout.count > 0 || this.#end <= this.#start) this.#requireAll(layout);
      else yield* this.#held();
      this.#scope.finish();
    } catch (error) {
      throw this.#scope.end(error);
    } finally {
      this.cancel();
    }
  }

  /**
   * Yields the pieces of a task that the peer has already. dfdaemon 1.4.1 and later then ends its
   * response without a piece.
   */
  async *#held(): AsyncGenerator<FetchedPiece, void, void> {
    for await (const piece of this.#heldPieces()) {
      this.#bytes += piece.length;
      yield piece;
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

  /** Verifies a message after the first one, and returns its piece. */
  #accept({ response }: TaskMessage, layout: PieceLayout): FetchedPiece {
    const addr = this.#addr;
    const piece =
      response.case === "downloadPieceFinishedResponse" ? response.value.piece : undefined;
    if (piece === undefined) {
      throw new VortexError("ProtocolViolation", "message: expected a piece, got none", { addr });
    }
    if (piece.content === undefined) {
      throw new VortexError(
        "ProtocolViolation",
        `piece ${piece.number}: expected its content, got none`,
        { addr },
      );
    }
    const content = unshared(piece.content);
    const metadata = toMetadata(piece);
    const extent = layout.accept(metadata);
    if (extent.offset >= this.#end || extent.offset + extent.length <= this.#start) {
      throw new VortexError(
        "ProtocolViolation",
        `bytes of piece ${piece.number}: expected some within ${this.#start} to ${this.#end}, ` +
          `got ${extent.offset} to ${extent.offset + extent.length}`,
        { addr },
      );
    }
    verifyContent(content, metadata, addr, this.#settings, this.#policy);
    this.#bytes += extent.length;
    return { ...extent, digest: piece.digest, metadata, content };
  }

  /**
   * Checks that all requested pieces were received.
   *
   * @throws `TruncatedContent` if a requested piece is missing
   */
  #requireAll(layout: PieceLayout): void {
    const { count, pieceLength, highest } = layout;
    let expected = Math.min(1, Math.max(0, this.#end - this.#start));
    if (pieceLength !== undefined) {
      const end = Math.ceil(this.#end / pieceLength);
      // Without a length of the task, its last piece is the highest one.
      const last = this.contentLength === undefined ? Math.min(end, highest + 1) : end;
      expected = last - Math.floor(this.#start / pieceLength);
    }
    if (count === expected) return;
    throw new VortexError(
      "TruncatedContent",
      `pieces of the answer: expected ${pieceLength === undefined ? "all" : expected}, got ${count}`,
      { addr: this.#addr },
    );
  }
}

/** Options of {@link StreamedTask.begin}. */
export interface StreamOptions {
  /** Fetches the pieces of a task that the peer has already and does not send. */
  readonly heldPieces: () => AsyncIterable<FetchedPiece>;
  /** Id of the requested task. */
  readonly taskId: string;
  /** Requested byte range of the task; `end` is exclusive. Default: the whole task. */
  readonly range?: { readonly start: number; readonly end: number } | undefined;
  /** Policy for a piece without a digest. Default: the value of the downloader. */
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
  /** Timeouts and abort signal of the call. */
  readonly scope: CallScope;
  /** Settings of the downloader. */
  readonly settings: DownloaderSettings;
  /** Address of the peer, `host:port`. */
  readonly addr: string;
}

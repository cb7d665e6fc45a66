import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { type Digest, digestOf, parseDigest } from "../digest/digest.ts";
import { metadataDigest } from "../digest/piece-metadata.ts";
import { type ErrorCode, VortexError } from "../errors.ts";
import type { Piece as PieceMessage } from "../gen/common/v2/common_pb.ts";
import { DfdaemonUpload, type StatLocalTaskResponse } from "../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { Piece, PieceKind, PieceMetadata } from "../piece.ts";
import { parseAddress } from "../transport/address.ts";
import type { GrpcBinding, GrpcConnection } from "../transport/grpc.ts";
import { acceptAnnouncement } from "./announcement.ts";
import type { CallScope } from "./call-scope.ts";
import type { CallOptions, Downloader, DownloaderSettings, PieceRequest } from "./downloader.ts";
import type { ContentSource } from "./piece-content.ts";
import { type PieceClient, PooledDownloader } from "./pooled-downloader.ts";

/** Loads a binding when it is first needed, so that one that is missing fails the call and not the import. */
export type GrpcBindingLoader = () => Promise<GrpcBinding>;

/** How a task is cut into pieces, as a peer tells it. */
export interface TaskStat {
  /** Bytes of the task. */
  readonly contentLength: number;
  /** Bytes of each piece but the last. */
  readonly pieceLength: number;
}

/**
 * A {@link Downloader} over the Dragonfly API (`dfdaemon.v2.DfdaemonUpload`), with a pool of connections by address.
 *
 * A piece comes as one message, so all of it is in memory, and `downloadPiece` resolves only when it has come and both its
 * digests agreed.
 */
export class GrpcDownloader extends PooledDownloader<GrpcClient> {
  constructor(binding: GrpcBindingLoader, settings: DownloaderSettings) {
    super(async (addr, signal) => GrpcClient.connect(await binding(), addr, settings, signal), settings);
  }

  /**
   * Asks a peer how a task that it has is cut into pieces. `pieceTimeout` and `stallTimeout` bound the call.
   *
   * Rejects as {@link downloadPiece} does; with `NotFound` also when the peer does not know the task's length yet.
   */
  statTask(peer: string, taskId: string, options: CallOptions = {}): Promise<TaskStat> {
    return this.call(peer, `the length of task ${taskId}`, options, async (client, scope) => {
      const stat = await client.statTask(taskId, scope);
      scope.finish();
      return stat;
    });
  }
}

/** A connection to one peer that serves the Dragonfly API. */
export class GrpcClient implements PieceClient {
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
    const maxMessageLength = Math.min(settings.maxPieceLength + settings.maxMetadataLength, 0xffffffff);
    const connection = await binding.dial(parseAddress(addr), { maxMessageLength, ...(signal && { signal }) });
    return new GrpcClient(connection, addr, settings);
  }

  /** Asks for a piece; the scope is the life of the call, and stays open when this throws, so that it can be tried again. */
  async downloadPiece(request: PieceRequest, scope: CallScope): Promise<Piece> {
    const { kind = "standard", hostId, taskId, number } = request;
    const method = pieceMethods[kind];
    const answer = await this.#call<PieceAnswer>(scope, unservedPieces, (client, signal) =>
      client[method]({ hostId, taskId, pieceNumber: number }, { signal }),
    );
    return acceptAnswer(answer, request, scope, this.#settings);
  }

  /**
   * Asks how a task is cut into pieces, by StatLocalTask: the peer answers from what it has itself, with both lengths. StatTask
   * would make it ask its scheduler, which a peer of this project does not have, and tells the piece length by the pieces
   * only.
   */
  async statTask(taskId: string, scope: CallScope): Promise<TaskStat> {
    const answer = await this.#call(scope, unservedTasks, (client, signal) =>
      client.statLocalTask({ taskId }, { signal }),
    );
    return acceptStat(answer, this.addr);
  }

  close(): Promise<void> {
    this.#closing = true;
    return this.#connection.close();
  }

  /** Makes one call, for as long as bytes of its answer keep coming. */
  async #call<T>(
    scope: CallScope,
    unserved: string,
    call: (client: Client<typeof DfdaemonUpload>, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const arrivals = new Arrivals();
    const client = createClient(DfdaemonUpload, this.#connection.transport(arrivals.note));
    const answer = call(client, scope.signal).finally(arrivals.end);
    try {
      while (await scope.waitFor(arrivals.next())) {
        // More has come: the wait for the next bytes starts anew.
      }
      return await answer;
    } catch (error) {
      if (scope.failure !== undefined) throw scope.failure;
      if (this.#closing) throw new VortexError("Closed", "the downloader is closed", { cause: error, addr: this.addr });
      throw callFailure(error, this.addr, this.#connection.open, unserved);
    }
  }
}

/** DownloadPiece and its twins, by the kind of piece. */
const pieceMethods = {
  standard: "downloadPiece",
  persistent: "downloadPersistentPiece",
  "persistent-cache": "downloadPersistentCachePiece",
  cache: "downloadCachePiece",
} as const satisfies Record<PieceKind, string>;

const unservedPieces =
  'the peer does not serve pieces over gRPC, as dfdaemon after 1.2.1 does not: use protocol "tcp" or "quic"';
const unservedTasks = "the peer does not tell about its tasks over gRPC";

/** The answer of DownloadPiece and its twins. */
interface PieceAnswer {
  readonly piece?: PieceMessage | undefined;
  readonly digest?: string | undefined;
}

/**
 * Checks an answer against the request and against itself. Nothing of a piece is handed out before all of it agreed.
 *
 * @throws `ProtocolViolation`, `PieceMismatch`, `LimitExceeded`, `InvalidArgument` for the range, `LengthMismatch`,
 * `DigestMismatch`
 */
function acceptAnswer(
  { piece, digest }: PieceAnswer,
  request: PieceRequest,
  scope: CallScope,
  settings: DownloaderSettings,
): Piece {
  const { addr } = request;
  const { hashers } = settings.runtime;
  if (piece === undefined) throw new VortexError("ProtocolViolation", "the answer holds no piece", { addr });
  const metadata = metadataOf(piece);
  const content = piece.content ?? new Uint8Array(0);
  // The digest of the whole piece is checked below, for a range of it too: the content does not pass a second hash.
  const settled = { update: () => {}, encode: () => parseDigest(metadata.digest).encoded };
  const accepted = acceptAnnouncement(request, metadata, oneChunk(content), scope, {
    ...settings,
    runtime: { ...settings.runtime, hashers: () => settled },
  });
  if (BigInt(content.length) !== metadata.length) {
    throw new VortexError("LengthMismatch", `${content.length} bytes came, announced were ${metadata.length}`, {
      addr,
    });
  }
  if (digest !== undefined) checkMetadata(metadata, digest, addr, settings);
  const { algorithm } = parseDigest(metadata.digest);
  const found = digestOf(algorithm, content, hashers);
  if (found !== accepted.digest) {
    const message = `the content has digest ${found}, announced was ${metadata.digest}`;
    throw new VortexError("DigestMismatch", message, { addr });
  }
  return accepted;
}

function metadataOf(piece: PieceMessage): PieceMetadata {
  return {
    number: piece.number,
    offset: piece.offset,
    length: piece.length,
    digest: piece.digest,
    parentId: piece.parentId ?? "",
    trafficType: piece.trafficType ?? 0,
    costSeconds: piece.cost?.seconds ?? 0n,
    createdAtSeconds: piece.createdAt?.seconds ?? 0n,
  };
}

function checkMetadata(metadata: PieceMetadata, digest: string, addr: string, settings: DownloaderSettings): void {
  let announced: Digest;
  try {
    announced = parseDigest(digest);
  } catch (cause) {
    const { message } = VortexError.from(cause, "Internal");
    throw new VortexError("ProtocolViolation", `the metadata cannot be verified: ${message}`, { cause, addr });
  }
  const found = metadataDigest(announced.algorithm, metadata, settings.runtime.hashers);
  if (found !== `${announced.algorithm}:${announced.encoded}`) {
    throw new VortexError("DigestMismatch", `the metadata has digest ${found}, announced was ${digest}`, { addr });
  }
}

function oneChunk(content: Uint8Array): ContentSource {
  let rest = content.length > 0 ? content : undefined;
  const take = (): Uint8Array | undefined => {
    const chunk = rest;
    rest = undefined;
    return chunk;
  };
  return { read: async () => take(), cancel: take };
}

function acceptStat({ contentLength, pieceLength }: StatLocalTaskResponse, addr: string): TaskStat {
  if (contentLength === undefined || pieceLength === undefined) {
    throw new VortexError("NotFound", "the peer does not know the length of the task yet", { addr });
  }
  if (pieceLength === 0n || contentLength > Number.MAX_SAFE_INTEGER || pieceLength > Number.MAX_SAFE_INTEGER) {
    const message = `a task of ${contentLength} bytes in pieces of ${pieceLength} announced`;
    throw new VortexError("ProtocolViolation", message, { addr });
  }
  return { contentLength: Number(contentLength), pieceLength: Number(pieceLength) };
}

/** What a status that the peer sent becomes; those that say nothing of use are `RemoteUnknown`. */
const statusCodes: Partial<Record<Code, ErrorCode>> = {
  [Code.NotFound]: "NotFound",
  [Code.InvalidArgument]: "RemoteInvalidArgument",
  [Code.OutOfRange]: "RemoteInvalidArgument",
  [Code.Unimplemented]: "RemoteUnimplemented",
  [Code.Unavailable]: "RemoteBusy",
  [Code.ResourceExhausted]: "RemoteBusy",
  [Code.Internal]: "RemoteInternal",
  [Code.DataLoss]: "RemoteInternal",
  [Code.DeadlineExceeded]: "PieceTimeout",
  [Code.Canceled]: "StreamReset",
};

/** What Connect finds wrong by itself, on a connection that is still open. */
const localCodes: Partial<Record<Code, ErrorCode>> = {
  // RST_STREAM: CANCEL, REFUSED_STREAM and ENHANCE_YOUR_CALM (RFC 9113, section 7), and statuses of HTTP such as 503.
  [Code.Canceled]: "StreamReset",
  [Code.Aborted]: "StreamReset",
  [Code.Unavailable]: "RemoteBusy",
  [Code.ResourceExhausted]: "RemoteBusy",
  // HTTP 404.
  [Code.Unimplemented]: "RemoteUnimplemented",
};

/** The one place where errors of Connect become ours. */
function callFailure(error: unknown, addr: string, open: boolean, unserved: string): VortexError {
  const failure = ConnectError.from(error, Code.Internal);
  const detail = failure.rawMessage.replaceAll(/[\r\n]+/g, " ").slice(0, 1024) || "without a message";
  const make = (code: ErrorCode, message: string): VortexError =>
    new VortexError(code, code === "RemoteUnimplemented" ? `${unserved} (${detail})` : message, { cause: error, addr });
  if (failure.metadata.has("grpc-status") || failure.metadata.has("grpc-status-details-bin")) {
    return make(statusCodes[failure.code] ?? "RemoteUnknown", `the peer answered ${Code[failure.code]}: ${detail}`);
  }
  if (!open) return make("ConnectionLost", `the connection was lost: ${detail}`);
  if (detail.includes("larger than configured readMaxBytes")) return make("LimitExceeded", detail);
  if (detail.includes("incomplete envelope") || detail.includes("missing output message")) {
    return make("TruncatedContent", "the answer ended before the piece was complete");
  }
  // Errors of the HTTP/2 implementation come as causes, the peer's RST_STREAM with these words.
  const reset = failure.cause instanceof Error || detail.startsWith("http/2 stream closed");
  const code = localCodes[failure.code] ?? (reset ? "StreamReset" : "ProtocolViolation");
  return make(code, `the call failed: ${detail}`);
}

/** Tells that something has come, since it was last asked, until the end. */
class Arrivals {
  #arrived = false;
  #ended = false;
  #wake: (() => void) | undefined;

  readonly note = (): void => {
    this.#arrived = true;
    this.#wake?.();
  };

  readonly end = (): void => {
    this.#ended = true;
    this.#wake?.();
  };

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

import {
  abortSignal,
  type Checks,
  fields,
  flag,
  implementing,
  integer,
  oneOf,
  required,
  size,
  text,
} from "../arguments.ts";
import {
  byteRangeChecks,
  type Piece,
  type PieceKind,
  pieceKinds,
  type RequestedRange,
  type UnverifiedPieces,
  unverifiedPiecesCheck,
} from "../piece.ts";
import type { Resolved } from "../resolved.ts";
import type { Runtime } from "../runtime.ts";
import type { Telemetry } from "../telemetry.ts";
import { type PeerAddress, peerAddress } from "../transport/peer-address.ts";

/**
 * Options of one call. A timeout given here overrides the timeout of the same name in
 * {@link TransferOptions}.
 */
export interface CallOptions {
  /**
   * Signal whose abort fails the call with `Aborted`, also while its content is being read.
   * Default: none.
   */
  readonly signal?: AbortSignal | undefined;
  /**
   * Maximum time in ms from the call to the last byte of the content. Time in which the caller does
   * not read the content is not counted. Afterwards the call fails with `PieceTimeout`. Default
   * 360,000.
   */
  readonly pieceTimeout?: number | undefined;
  /**
   * Maximum time in ms for which the call waits for the peer without receiving a byte. Afterwards
   * the call fails with `Stalled`. Default 30,000.
   */
  readonly stallTimeout?: number | undefined;
  /**
   * Maximum time in ms between two reads of the content by the caller. Afterwards the call fails
   * with `PieceTimeout`. Default: `pieceTimeout`.
   */
  readonly unreadTimeout?: number | undefined;
}

/** Options of `downloadPiece`: the piece, the peer, and limits of the call. */
export interface PieceDownloadOptions extends CallOptions {
  /** Address of the peer: one `host:port`, or an object with one `host:port` per protocol. */
  readonly addr: PeerAddress;
  /**
   * ID of the requesting host. Sent over gRPC only, because the Vortex protocol has no field for
   * it. Default: the value of the downloader.
   */
  readonly hostId?: string | undefined;
  /** ID of the task: 64 characters, which are hex digits in stock Dragonfly. */
  readonly taskId: string;
  /** Number of the piece within the task, from 0; an unsigned 32-bit integer. */
  readonly number: number;
  /** Kind of the task that the piece belongs to. Default `standard`. */
  readonly kind?: PieceKind | undefined;
  /**
   * Byte range of the piece to return. Default: the whole piece.
   *
   * The Vortex protocol has no ranges: bytes before the range are received and discarded, and the
   * stream is cancelled at the end of the range.
   */
  readonly range?: RequestedRange | undefined;
  /**
   * Policy for a piece without a digest, see {@link UnverifiedPieces}. Default: the value of the
   * downloader, `accept`.
   */
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
}

/** {@link PieceDownloadOptions} for a downloader of one protocol. */
export interface PieceRequest extends PieceDownloadOptions {
  /** Address of the peer, `host:port`, where it serves the protocol of the downloader. */
  readonly addr: string;
}

/**
 * Fetches pieces of tasks from peers. The interface is the same for every protocol. Created by
 * `createDownloader`.
 */
export interface PieceDownloader {
  /**
   * Requests a piece from a peer. Resolves when the peer has announced the piece. The content is
   * then read from the returned {@link Piece}. Rejects like `Downloader.downloadPiece`.
   */
  downloadPiece(options: PieceRequest): Promise<Piece>;
  /** Closes all connections. Pending requests fail with `Closed`. Idempotent. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Options of a downloader, all optional. Every timeout is at most 30 days. */
export interface TransferOptions {
  /**
   * ID of this host, which requests over gRPC carry. Stock Dragonfly peers only log it. Default
   * `vortex-peer`.
   */
  readonly hostId?: string | undefined;
  /** Maximum time in ms to connect to a peer, handshake included. Default 2,000, like dfdaemon. */
  readonly connectTimeout?: number | undefined;
  /**
   * Maximum time in ms from a call to the last byte of its content, see
   * {@link CallOptions.pieceTimeout}. Default 360,000.
   */
  readonly pieceTimeout?: number | undefined;
  /**
   * Maximum time in ms without a byte from the peer, see {@link CallOptions.stallTimeout}. Default
   * 30,000.
   */
  readonly stallTimeout?: number | undefined;
  /**
   * Time in ms, 0 or more, for which a task without any usable parent waits for one. Afterwards the
   * task fails. A parent is a peer that serves pieces of the task. Default 60,000.
   */
  readonly patience?: number | undefined;
  /**
   * Maximum accepted length of a piece, in bytes. Default 64 MiB, like the longest pieces in stock
   * Dragonfly.
   */
  readonly maxPieceLength?: number | undefined;
  /**
   * Maximum accepted length of a piece's metadata, in bytes, 64 to 2^32 - 1. Over gRPC, everything
   * in the message except the content counts as metadata. Default 64 KiB.
   */
  readonly maxMetadataLength?: number | undefined;
  /**
   * Policy for pieces without a digest, see {@link UnverifiedPieces}. The content of a whole task
   * is still verified by its digest, if that is known. Default `accept`, like dfdaemon.
   */
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
  /** Options of the connection pool. For the defaults see {@link PoolOptions}. */
  readonly pool?: PoolOptions | undefined;
  /**
   * Maximum number of pieces that one task fetches concurrently, 1 to 1,024. Default 8, like
   * dfdaemon.
   */
  readonly concurrentPieceCount?: number | undefined;
  /**
   * Maximum number of concurrent requests to one parent, over all tasks together, 1 to 1,000,000.
   * Tasks that fetch from the same parent share this number evenly. Default 32.
   */
  readonly parentConcurrency?: number | undefined;
  /**
   * Maximum download rate in bytes/s of all tasks of this downloader together, at least 1. Calls of
   * `downloadPiece` are not limited. Default: no limit.
   */
  readonly rateLimit?: number | bigint | undefined;
  /**
   * True to send the first request to a known peer as QUIC 0-RTT data (RFC 9001, section 4.6),
   * which saves a round trip. An attacker can replay such a request, but gains nothing, because
   * requests only read from the peer. Default true, where the runtime supports 0-RTT.
   */
  readonly earlyData?: boolean | undefined;
  /** Observer of every call and task, such as `openTelemetry(api)`. Default: none. */
  readonly telemetry?: Telemetry | undefined;
}

/** Options of a connection pool. */
export interface PoolOptions {
  /**
   * Maximum number of connections to one address, 1 to 64. A further connection is dialled if all
   * existing ones are in use. Default 1.
   *
   * Use several connections if the network limits the rate of each one, or if packet loss on one
   * connection delays all its streams. With TCP, every request uses a separate TCP connection,
   * regardless of this option.
   */
  readonly connectionsPerAddress?: number | undefined;
  /**
   * Soft limit on the number of connections in the pool, 1 to 1,000,000. Above it, the connections
   * that are idle for longest are closed. Connections in use are never closed, so the pool may
   * exceed the limit for a while. Default 2,000.
   */
  readonly capacity?: number | undefined;
  /**
   * Idle timeout in ms: a connection is closed after this time without a request. Default 420,000.
   */
  readonly idleTimeout?: number | undefined;
  /**
   * Interval in ms between two checks for connections that exceed `idleTimeout`. Default 60,000.
   */
  readonly cleanupInterval?: number | undefined;
}

/** {@link TransferOptions} with all defaults filled in, and the runtime. */
export interface DownloaderSettings {
  readonly hostId: string;
  readonly connectTimeout: number;
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  readonly patience: number;
  readonly maxPieceLength: number;
  readonly maxMetadataLength: number;
  readonly unverifiedPieces: UnverifiedPieces;
  readonly pool: Resolved<PoolOptions>;
  readonly concurrentPieceCount: number;
  readonly parentConcurrency: number;
  readonly rateLimit: number | undefined;
  readonly earlyData: boolean;
  readonly telemetry: Telemetry | undefined;
  /** Clock, random numbers and hash functions for the downloader. */
  readonly runtime: Runtime;
}

/** Maximum value of every timeout option: 30 days, in ms. */
export const MAX_TIMEOUT_MS: number = 30 * 24 * 3600 * 1000;

const timeout = integer(1, MAX_TIMEOUT_MS);

const poolChecks: Checks<PoolOptions> = {
  connectionsPerAddress: integer(1, 64),
  capacity: integer(1, 1_000_000),
  idleTimeout: timeout,
  cleanupInterval: timeout,
};

/** Check of each field of {@link TransferOptions}; a failed one throws `InvalidArgument`. */
export const transferChecks: Checks<TransferOptions> = {
  hostId: text,
  connectTimeout: timeout,
  pieceTimeout: timeout,
  stallTimeout: timeout,
  patience: integer(0, MAX_TIMEOUT_MS),
  maxPieceLength: integer(1),
  maxMetadataLength: integer(64, 0xffffffff),
  unverifiedPieces: unverifiedPiecesCheck,
  pool: fields(poolChecks),
  concurrentPieceCount: integer(1, 1024),
  parentConcurrency: integer(1, 1_000_000),
  rateLimit: size(1),
  earlyData: flag,
  telemetry: implementing("an observer", "begin"),
};

/** Check of each field of {@link CallOptions}; a failed one throws `InvalidArgument`. */
export const callChecks: Checks<CallOptions> = {
  signal: abortSignal,
  pieceTimeout: timeout,
  stallTimeout: timeout,
  unreadTimeout: timeout,
};

/**
 * Checks for the fields of {@link PieceRequest}. A failed check throws `InvalidArgument`. The upper
 * bounds of the range depend on the length of the piece, and are checked with its announcement.
 */
export const pieceRequestChecks: Checks<PieceRequest> = {
  ...callChecks,
  addr: required(peerAddress),
  hostId: text,
  taskId: required(text),
  number: required(integer(0, 0xffffffff)),
  kind: oneOf(...pieceKinds),
  range: fields(byteRangeChecks),
  unverifiedPieces: unverifiedPiecesCheck,
};

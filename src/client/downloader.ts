import type { ByteRange, Piece, PieceKind } from "../piece.ts";
import type { Runtime } from "../runtime.ts";
import type { Telemetry } from "../telemetry.ts";

/** Request for one piece of a task from one peer. */
export interface PieceRequest {
  /** Address of the peer, `host:port`, with its port for the downloader's protocol. */
  readonly addr: string;
  /** Id of the requesting host, sent over gRPC only: the Vortex protocol does not carry it. */
  readonly hostId: string;
  /** Id of the task: 64 characters, hex digits in stock Dragonfly. */
  readonly taskId: string;
  /** Position of the piece in the task, from 0; an unsigned 32-bit integer. */
  readonly number: number;
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind;
  /**
   * Bytes of the piece to return. Over Vortex, bytes before the range are read and dropped, and the
   * stream is cancelled behind it. Default: the whole piece.
   */
  readonly range?: ByteRange;
}

/** Options of one call. Each timeout overrides the downloader's option of the same name. */
export interface CallOptions {
  /** Aborts the call, and later reads of its content, at once with `Aborted`. Default: none. */
  readonly signal?: AbortSignal;
  /**
   * Piece timeout in ms, from the call to the last byte of content. Time between two reads of the
   * content does not count. Default 360,000. The call fails with `PieceTimeout`.
   */
  readonly pieceTimeout?: number;
  /**
   * Stall timeout in ms: longest silence of the peer while the call waits for its bytes.
   * Default 30,000. The call fails with `Stalled`.
   */
  readonly stallTimeout?: number;
  /**
   * Longest time between two reads of the content, in ms. After it the piece is given up with
   * `PieceTimeout`. Default: `pieceTimeout`.
   */
  readonly unreadTimeout?: number;
}

/** Fetches pieces. Same interface for every protocol; made by `createDownloader`. */
export interface Downloader {
  /**
   * Requests a piece from a peer. Resolves when the peer has announced the piece; the content is
   * then read from the result.
   *
   * Rejects with a `VortexError`:
   * - bad arguments: `InvalidArgument`;
   * - no connection: `ConnectionRefused`, `Unreachable`, `ConnectTimeout`, `HandshakeFailed`,
   *   `ProtocolNotSupported`;
   * - errors that the peer sent: `NotFound` and the `Remote…` codes;
   * - invalid answers: `PieceMismatch`, `ProtocolViolation`, `InvalidPacket`, `InvalidLength`,
   *   `InvalidUtf8`, `LimitExceeded`, `TruncatedContent`;
   * - lost connections and streams: `ConnectionLost`, `StreamReset`;
   * - timeouts: `PieceTimeout`, `Stalled`;
   * - end by the caller: `Aborted`, `Closed`.
   *
   * Reading the content fails with the same codes, and with `DigestMismatch`.
   *
   * @example
   * ```ts
   * import { createDownloader } from "vortex-peer";
   *
   * const downloader = createDownloader({ protocol: "tcp" });
   * const piece = await downloader.downloadPiece(
   *   {
   *     addr: "10.0.0.7:4005",
   *     hostId: "my-host",
   *     taskId: "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd",
   *     number: 0,
   *   },
   *   { signal: AbortSignal.timeout(10_000) },
   * );
   * for await (const chunk of piece.content) console.log(chunk.length);
   * await downloader.close();
   * ```
   */
  downloadPiece(request: PieceRequest, options?: CallOptions): Promise<Piece>;
  /** Closes all connections; pending requests fail with `Closed`. Idempotent. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Options of a downloader, all optional. Timeouts are at most 30 days. */
export interface DownloaderOptions {
  /** Connect timeout in ms. Default 2,000, like dfdaemon. */
  readonly connectTimeout?: number;
  /** Piece timeout in ms, see {@link CallOptions.pieceTimeout}. Default 360,000. */
  readonly pieceTimeout?: number;
  /** Stall timeout in ms, see {@link CallOptions.stallTimeout}. Default 30,000. */
  readonly stallTimeout?: number;
  /**
   * Time in ms that a task without any usable parent waits for one before it fails, 0 or more.
   * Default 60,000.
   */
  readonly patience?: number;
  /**
   * Maximum accepted length of a piece, in bytes. Default 64 MiB, the maximum that stock Dragonfly
   * makes.
   */
  readonly maxPieceLength?: number;
  /**
   * Maximum length of a piece's metadata, in bytes, 64 to 2^32 - 1. Over gRPC: of everything in the
   * message except the content. Default 64 KiB.
   */
  readonly maxMetadataLength?: number;
  /** Options of the connection pool. Defaults: see {@link PoolOptions}. */
  readonly pool?: PoolOptions;
  /** Maximum concurrent pieces of one task, 1 to 1,024. Default 8, like dfdaemon. */
  readonly concurrentPieceCount?: number;
  /**
   * Maximum concurrent requests to one parent, over all tasks, 1 to 1,000,000. Tasks that compete
   * for a parent share it evenly. Default 32.
   */
  readonly parentConcurrency?: number;
  /**
   * Download rate limit in bytes/s for all tasks of this downloader together, at least 1. Calls of
   * `downloadPiece` are not limited. Default: no limit.
   */
  readonly rateLimit?: number;
  /**
   * Sends the first request to a known peer together with the QUIC handshake (0-RTT), which saves a
   * round trip. An attacker can replay a recorded request to the peer, but gains nothing by it.
   * Default true, where the runtime supports it.
   */
  readonly earlyData?: boolean;
  /** Observer of every call, such as `openTelemetry(api)`. Default: none. */
  readonly telemetry?: Telemetry;
}

/** Options of a connection pool. */
export interface PoolOptions {
  /**
   * Maximum connections to one address, 1 to 64. A new one is dialled while all others are in use.
   * More than one helps where the network limits each flow, or where the losses of one connection
   * delay all its streams. TCP dials one connection per request regardless. Default 1.
   */
  readonly connectionsPerAddress?: number;
  /**
   * Soft limit on pooled connections, 1 to 1,000,000. Connections in use are never evicted, so the
   * pool may exceed it for a while. Connections that are idle the longest are evicted first.
   * Default 2,000.
   */
  readonly capacity?: number;
  /** Time without a request after which a connection is closed, in ms. Default 420,000. */
  readonly idleTimeout?: number;
  /** Interval between two sweeps for idle connections, in ms. Default 60,000. */
  readonly cleanupInterval?: number;
}

/** {@link DownloaderOptions} with every default filled in, plus the runtime. */
export interface DownloaderSettings {
  readonly connectTimeout: number;
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  readonly patience: number;
  readonly maxPieceLength: number;
  readonly maxMetadataLength: number;
  readonly pool: Required<PoolOptions>;
  readonly concurrentPieceCount: number;
  readonly parentConcurrency: number;
  readonly rateLimit: number | undefined;
  readonly earlyData: boolean;
  readonly telemetry: Telemetry | undefined;
  /** Clock, randomness and hashes that the core uses. */
  readonly runtime: Runtime;
}

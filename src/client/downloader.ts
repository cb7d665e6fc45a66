import type { ByteRange, Piece, PieceKind } from "../piece.ts";
import type { Runtime } from "../runtime.ts";
import type { Telemetry } from "../telemetry.ts";

/** Which piece, of which task, from which peer. */
export interface PieceRequest {
  /** The peer, `host:port`, at its port for the downloader's protocol. */
  readonly addr: string;
  /** The asking host's id, as the Dragonfly API wants it over gRPC; the Vortex protocol does not carry it. */
  readonly hostId: string;
  /** 64 characters, hex digits in stock Dragonfly. */
  readonly taskId: string;
  /** The piece's position in the task, from 0; an unsigned 32-bit integer. */
  readonly number: number;
  /** Default `standard`. */
  readonly kind?: PieceKind;
  /** Hands out only these bytes of the piece. Over Vortex what lies behind them is cancelled, not read to the end. Default: all. */
  readonly range?: ByteRange;
}

/** What one call may be told; each overrides the downloader's own option. */
export interface CallOptions {
  /** Ends the call, and the reading of the content after it, at once, with `Aborted`. Default: none. */
  readonly signal?: AbortSignal;
  /**
   * Milliseconds for the whole piece, from the call to the last byte of content. Time between two reads of the content does
   * not count. Default 360,000.
   */
  readonly pieceTimeout?: number;
  /** Milliseconds without a byte from the peer, while one is waited for. Default 30,000. */
  readonly stallTimeout?: number;
  /** Milliseconds between two reads of the content, after which the piece is given up as `PieceTimeout`. Default: `pieceTimeout`. */
  readonly unreadTimeout?: number;
}

/** Fetches pieces. The same for every protocol; made by `createDownloader`. */
export interface Downloader {
  /**
   * Asks a peer for a piece. Resolves when the peer has announced it; its content is then read from the result.
   *
   * Rejects with a `VortexError`: `InvalidArgument`; `ConnectionRefused`, `Unreachable`, `ConnectTimeout`,
   * `HandshakeFailed`, `ProtocolNotSupported`; `NotFound` and the `Remote…` codes for what the peer answered;
   * `PieceMismatch`, `ProtocolViolation`, `InvalidPacket`, `InvalidLength`, `InvalidUtf8`, `LimitExceeded`,
   * `TruncatedContent`; `ConnectionLost`, `StreamReset`; `PieceTimeout`, `Stalled`; `Aborted`; `Closed`. Reading the
   * content fails with the same, and with `DigestMismatch`.
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
  /** Ends all connections; requests under way fail with `Closed`. Idempotent. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** How a downloader behaves; all of it optional. */
export interface DownloaderOptions {
  /** Milliseconds for a connection to be made. Default 2,000, as stock peers. */
  readonly connectTimeout?: number;
  /** See {@link CallOptions.pieceTimeout}. */
  readonly pieceTimeout?: number;
  /** See {@link CallOptions.stallTimeout}. */
  readonly stallTimeout?: number;
  /** Milliseconds for which a task waits for parents when all are gone. Default 60,000. */
  readonly patience?: number;
  /** Greatest length of a piece that is accepted, in bytes. Default 64 MiB, the greatest that stock Dragonfly makes. */
  readonly maxPieceLength?: number;
  /** Greatest length of a piece's metadata, in bytes; over gRPC, of all that comes with a piece's content. Default 64 KiB. */
  readonly maxMetadataLength?: number;
  /** The pool of connections. Defaults: those of {@link PoolOptions}. */
  readonly pool?: PoolOptions;
  /** Pieces of one task at a time, 1 to 1,024. Default 8, as stock peers. */
  readonly concurrentPieceCount?: number;
  /** Requests of all tasks to one parent at a time, 1 to 1,000,000. Tasks that compete for one share it evenly. Default 32. */
  readonly parentConcurrency?: number;
  /** Bytes a second that all tasks of this downloader may take together, at least 1. Single pieces do not count. Default: no limit. */
  readonly rateLimit?: number;
  /**
   * Sends the first request to a peer that was met before along with the handshake (QUIC's 0-RTT), which saves a round trip. Whoever
   * records it can have the peer answer it again, to nobody's gain. Default true, where the runtime can.
   */
  readonly earlyData?: boolean;
  /** Hears of every call, as `openTelemetry(api)` does. Default: nobody. */
  readonly telemetry?: Telemetry;
}

/** How connections to peers are kept. */
export interface PoolOptions {
  /**
   * Connections to one address at a time, 1 to 64, made while all before them are in use. More than one is of use where the network
   * bounds each flow by itself, or one connection's losses hold its neighbours. Over TCP each request has its own anyway. Default 1.
   */
  readonly connectionsPerAddress?: number;
  /** Peers to keep connections to. Default 2,000. More are made when all are in use, and given up first. */
  readonly capacity?: number;
  /** Milliseconds without a request after which a connection is closed. Default 420,000. */
  readonly idleTimeout?: number;
  /** Milliseconds between two looks for idle connections. Default 60,000. */
  readonly cleanupInterval?: number;
}

/** {@link DownloaderOptions} with every default filled in, and the runtime. */
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
  /** What the core is given: clock, randomness, hashes. */
  readonly runtime: Runtime;
}

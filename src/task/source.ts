import type { Piece, PieceKind, UnverifiedPieces } from "../piece.ts";
import type { RateLimiter } from "../rate-limiter.ts";
import type { Runtime } from "../runtime.ts";
import type { Telemetry } from "../telemetry.ts";
import type { PeerAddress, PeerAddresses } from "../transport/peer-address.ts";
import type { ExcludedProtocol, Protocol } from "../transport/protocol.ts";
import type { PieceLocation, TaskDirectory } from "./discovery.ts";
import type { ParentSlots } from "./slots.ts";

/** Request for one piece from one parent, in the form that downloaders accept. */
export interface SourceRequest {
  /**
   * Address of the parent, `host:port`. If `addresses` is present, it serves only as the name of
   * the parent.
   */
  readonly addr: string;
  /** Address of the parent for each protocol. Absent: `addr` is the address. */
  readonly addresses?: PeerAddresses;
  /** Protocol to use. Absent: the transport chooses the protocol. */
  readonly protocol?: Protocol;
  /** ID of the requesting host. */
  readonly hostId: string;
  /** ID of the task. */
  readonly taskId: string;
  /** Kind of the task. */
  readonly kind: PieceKind;
  /** Number of the piece in the task, from 0. */
  readonly number: number;
  /** Policy for a piece without a digest. Absent: the policy of the transport. */
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
}

/**
 * Abort signal and timeouts of one piece request. Time during which the caller does not read the
 * content counts only against `unreadTimeout`.
 */
export interface SourceOptions {
  /** Aborts the request and the transfer of the content. */
  readonly signal: AbortSignal;
  /** Timeout for the whole transfer of the piece, in ms. */
  readonly pieceTimeout: number;
  /** Maximum silence of the parent while bytes are expected from it, in ms. */
  readonly stallTimeout: number;
  /** Maximum time between two reads of the content by the caller, in ms. */
  readonly unreadTimeout: number;
}

/** Transport of a download: requests pieces from parents over one or several protocols. */
export interface TaskSource {
  /**
   * Requests a piece from a parent. The returned piece verifies its content against the digest that
   * the parent announced, while the content is read. The signal aborts the request and the transfer
   * of the content.
   */
  fetchPiece(request: SourceRequest, options: SourceOptions): Promise<Piece>;
  /**
   * Requests the lengths of a task and the list of pieces from parents. Absent: the caller of the
   * download must give the lengths.
   */
  readonly directory?: TaskDirectory | undefined;
  /**
   * Returns the address for `fetchPiece` that a parent announced in `location`, or undefined if it
   * announced none that may be used.
   *
   * @param apiAddr address of the parent's Dragonfly gRPC API
   */
  addressOf(location: PieceLocation, apiAddr: string): PeerAddress | undefined;
  /**
   * Converts a parent's address to the form that `fetchPiece` expects. Absent: the address is used
   * unchanged.
   *
   * @throws `InvalidArgument` if the address is invalid
   */
  resolve?(addr: PeerAddress): PeerAddress;
  /**
   * Returns the protocols over which pieces are requested from a parent in parallel. Absent: the
   * transport chooses the protocol of each piece.
   *
   * @param addr address of the parent; undefined if unknown
   * @param announcing true to include protocols that the parent may still announce
   * @throws `InvalidArgument` if the address is invalid
   */
  protocolsOf?(addr: PeerAddress | undefined, announcing: boolean): readonly Protocol[];
  /**
   * Returns the protocols that are not used with a parent, each with the reason. Absent: no
   * protocol is excluded.
   *
   * @param addr address of the parent; undefined if it is unknown, or announced but not usable
   */
  excluded?(addr: PeerAddress | undefined): readonly ExcludedProtocol[];
  /**
   * True if `fetchPiece` uses the Dragonfly gRPC API. Pieces and the list of pieces then have the
   * same address, and each piece arrives as one message in memory.
   */
  readonly usesGrpc: boolean;
}

/** Settings that apply to all downloads of one downloader, with every default filled in. */
export interface TaskSettings {
  /** ID of the requesting host, for requests that give none. */
  readonly hostId: string;
  /** Maximum number of pieces in flight per download. */
  readonly concurrentPieceCount: number;
  /** Maximum number of requests in flight to one parent, across all tasks. */
  readonly parentConcurrency: number;
  /** Rate limit across all downloads, in bytes/s; undefined without a limit. */
  readonly rateLimit: number | undefined;
  /** Timeout for the transfer of one piece, in ms. */
  readonly pieceTimeout: number;
  /** Maximum silence of a parent while bytes are expected from it, in ms. */
  readonly stallTimeout: number;
  /**
   * Maximum time in ms to wait for the recovery of failed parents, if no other parent can deliver
   * the missing pieces.
   */
  readonly patience: number;
  /** Maximum length of a piece, in bytes. */
  readonly maxPieceLength: number;
  /** Observer of the operations; absent without telemetry. */
  readonly telemetry?: Telemetry | undefined;
  /** Clock, random numbers and hash functions of the runtime. */
  readonly runtime: Runtime;
}

/** Limits that all downloads of one downloader share. */
export interface SharedLimits {
  /** Limits the number of requests in flight to each parent. */
  readonly slots: ParentSlots;
  /** Limits the download rate; undefined without a limit. */
  readonly limiter: RateLimiter | undefined;
}

import type { Piece, PieceKind } from "../piece.ts";
import type { RateLimiter } from "../rate-limiter.ts";
import type { Runtime } from "../runtime.ts";
import type { Telemetry } from "../telemetry.ts";
import type { PeerAddress, PeerAddresses } from "../transport/peer-address.ts";
import type { LeftOutProtocol, Protocol } from "../transport/protocol.ts";
import type { PieceLocation, TaskDirectory } from "./discovery.ts";
import type { ParentSlots } from "./slots.ts";

/** Request for one piece from one parent, as downloaders accept it. */
export interface SourceRequest {
  /** Name of the parent, and its address unless `addresses` is present. */
  readonly addr: string;
  /** Address of the parent per protocol, if known. */
  readonly addresses?: PeerAddresses;
  /** Protocol to use, for a source that uses several at once. */
  readonly protocol?: Protocol;
  readonly hostId: string;
  readonly taskId: string;
  readonly kind: PieceKind;
  readonly number: number;
}

/**
 * Abort signal and timeouts of one piece request, in ms. Time between two reads of the content
 * counts only against `unreadTimeout`.
 */
export interface SourceOptions {
  readonly signal: AbortSignal;
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  readonly unreadTimeout: number;
}

/**
 * Transport of a download: fetches pieces over one or several protocols, and locates them at the
 * parents.
 */
export interface TaskSource {
  /**
   * Requests a piece, whose content is verified against its own digest as it is read. The signal
   * aborts the request and the content.
   */
  fetchPiece(request: SourceRequest, options: SourceOptions): Promise<Piece>;
  /**
   * Directory that asks parents for lengths and pieces. Absent: the caller has to know the lengths.
   */
  readonly directory?: TaskDirectory | undefined;
  /**
   * Returns the address for `fetchPiece` that the parent with this `apiAddr` announced in
   * `location`; undefined if it announced none.
   */
  addressOf(location: PieceLocation, apiAddr: string): PeerAddress | undefined;
  /**
   * Converts a parent's address to the form that `fetchPiece` expects. Absent: `host:port`
   * unchanged.
   * @throws `InvalidArgument`
   */
  resolve?(addr: PeerAddress): PeerAddress;
  /**
   * Returns the protocols to use in parallel with a parent at `addr`; undefined stands for an
   * address not known yet. Absent: the source chooses the protocol of each piece itself.
   *
   * @throws `InvalidArgument`
   */
  protocolsOf?(addr: PeerAddress | undefined): readonly Protocol[];
  /**
   * Returns the protocols that are not used with a parent at `addr`, each with the reason;
   * undefined stands for an address not known yet. Absent: no protocol is left out.
   */
  leftOut?(addr: PeerAddress | undefined): readonly LeftOutProtocol[];
  /**
   * True if `fetchPiece` uses the Dragonfly gRPC API. A parent then has one address for both, and a
   * whole piece arrives as one message.
   */
  readonly speaksApi: boolean;
}

/**
 * Settings of all downloads of one downloader, with every default filled in. Timeouts are in ms,
 * lengths in bytes.
 */
export interface TaskSettings {
  readonly concurrentPieceCount: number;
  /** Maximum number of requests in flight to one parent, across all tasks. */
  readonly parentConcurrency: number;
  /** Rate limit across all tasks, in bytes/s. */
  readonly rateLimit: number | undefined;
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  /** Time to wait for the last parents to recover, in ms. */
  readonly patience: number;
  readonly maxPieceLength: number;
  readonly telemetry?: Telemetry | undefined;
  readonly runtime: Runtime;
}

/** Limits that all downloads of one downloader share. */
export interface SharedLimits {
  readonly slots: ParentSlots;
  readonly limiter: RateLimiter | undefined;
}

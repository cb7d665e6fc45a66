import type { Piece, PieceKind } from "../piece.ts";
import type { RateLimiter } from "../rate-limiter.ts";
import type { Runtime } from "../runtime.ts";
import type { Telemetry } from "../telemetry.ts";
import type { PeerAddress, PeerAddresses } from "../transport/peer-address.ts";
import type { LeftOutProtocol, Protocol } from "../transport/protocol.ts";
import type { PieceLocation, TaskDirectory } from "./discovery.ts";
import type { ParentSlots } from "./slots.ts";

/** A piece to fetch, as downloaders take it. */
export interface SourceRequest {
  /** What the parent is called, and its address unless `addresses` has more. */
  readonly addr: string;
  /** Where it serves each protocol, where that is known. */
  readonly addresses?: PeerAddresses;
  /** What to fetch over, for a source that uses several at once. */
  readonly protocol?: Protocol;
  readonly hostId: string;
  readonly taskId: string;
  readonly kind: PieceKind;
  readonly number: number;
}

/** Deadlines of one piece, in ms. Time between two reads of its content counts against the last of them alone. */
export interface SourceOptions {
  readonly signal: AbortSignal;
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  readonly unreadTimeout: number;
}

/** What a task is fetched by: the pieces of one protocol or more, and whom to ask where they are. */
export interface TaskSource {
  /** Fetches a piece; its content is checked against its own digest. Everything ends at the signal. */
  fetchPiece(request: SourceRequest, options: SourceOptions): Promise<Piece>;
  /** Absent: parents cannot be asked, and the caller has to know the lengths. */
  readonly directory?: TaskDirectory | undefined;
  /** The address that a parent, asked at `apiAddr`, announces for `fetchPiece`, if any. */
  addressOf(location: PieceLocation, apiAddr: string): PeerAddress | undefined;
  /**
   * A parent's address as `fetchPiece` wants it. Absent: `host:port`, as it is.
   * @throws `InvalidArgument`
   */
  resolve?(addr: PeerAddress): PeerAddress;
  /**
   * The protocols to fetch over at once from a parent at `addr`, or from one whose address is not known yet. Absent: what
   * pieces travel over is the source's own affair.
   *
   * @throws `InvalidArgument`
   */
  protocolsOf?(addr: PeerAddress | undefined): readonly Protocol[];
  /** Protocols that are not used with a parent at `addr`, or with one whose address is not known yet. Absent: none. */
  leftOut?(addr: PeerAddress | undefined): readonly LeftOutProtocol[];
  /** Whether `fetchPiece` speaks the Dragonfly API, so that a parent has one address for both, and a piece is one message. */
  readonly speaksApi: boolean;
}

/** How tasks are fetched, with every default filled in. */
export interface TaskSettings {
  readonly concurrentPieceCount: number;
  /** Requests to one parent at a time, of all tasks together. */
  readonly parentConcurrency: number;
  /** Bytes a second of all tasks together. */
  readonly rateLimit: number | undefined;
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  /** Milliseconds for which the last parents are waited for. */
  readonly patience: number;
  readonly maxPieceLength: number;
  readonly telemetry?: Telemetry | undefined;
  readonly runtime: Runtime;
}

/** What the downloads of one downloader share. */
export interface SharedLimits {
  readonly slots: ParentSlots;
  readonly limiter: RateLimiter | undefined;
}

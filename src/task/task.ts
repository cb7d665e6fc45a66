import type { VortexError } from "../errors.ts";
import type { ByteRange, PieceKind } from "../piece.ts";
import type { PieceStore } from "../store/store.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import type { LeftOutProtocol, Protocol } from "../transport/protocol.ts";
import type { KnownLayout } from "./layout.ts";
import type { TaskSink } from "./sink.ts";

/** Peer to fetch a task from. At least one of `addr` and `apiAddr` is required. */
export interface TaskParent {
  /**
   * Address for piece requests: one `host:port` at the port of the downloader's protocol, or one
   * address per protocol. Default: the address that the peer announces with its pieces.
   */
  readonly addr?: PeerAddress;
  /**
   * Address of the peer's Dragonfly gRPC API, `host:port`. The peer is asked there which pieces it
   * has, and only those are requested from it.
   *
   * Default when the request gives no lengths: the host of `addr` at port 4000, or `addr` itself
   * for a downloader over gRPC. Otherwise the peer is not asked, and is assumed to have all pieces.
   */
  readonly apiAddr?: string;
}

/**
 * Task to fetch, and the parents to fetch it from. Without `contentLength` and `pieces`, the
 * parents are asked for the lengths.
 */
export interface TaskRequest extends KnownLayout {
  /** Task ID, 64 characters. Dragonfly uses hex digits. */
  readonly taskId: string;
  /** ID of the requesting host, a field of every Dragonfly API request. */
  readonly hostId: string;
  /** Peers that have all or part of the task, at least one. A string is short for `{ addr }`. */
  readonly parents: readonly (string | TaskParent)[];
  /** Task kind. Default `standard`. */
  readonly kind?: PieceKind;
  /**
   * Expected digest of the whole content, as `algorithm:encoded` with `crc32`, `sha256` or
   * `sha512`. It is verified during the download. Parents with different content then cannot fail
   * the task while another parent has all of the right content.
   *
   * Default: the digest that the parents name, if all of them name the same one. Without any
   * digest, two parents with different contents fail the task with `DigestMismatch`.
   */
  readonly digest?: string;
  /**
   * Byte range of the content. Only the pieces that overlap it are fetched, and only its bytes
   * reach the sink. Cannot be combined with `digest`, since a part cannot be verified by the digest
   * of the whole.
   */
  readonly range?: ByteRange;
}

/** Options of one download. */
export interface TaskOptions {
  /**
   * Aborts the download immediately, with the code `Aborted`. A file sink keeps its pieces, so that
   * a later download can resume. Default: no signal.
   */
  readonly signal?: AbortSignal;
  /**
   * Rate limit of this task in bytes/s, at least 1. Default: only the limit of the downloader
   * applies.
   */
  readonly rateLimit?: number;
  /**
   * Maximum number of pieces in flight, 1 to 1,024. Over gRPC, at most 16 MiB are in flight, so
   * pieces longer than 2 MiB lower the number. Default: that of the downloader, 8.
   */
  readonly concurrentPieceCount?: number;
  /**
   * Timeout for one piece in ms, from its request to its last byte. Delays by a rate limit or by
   * the sink do not count. Default: that of the downloader.
   */
  readonly pieceTimeout?: number;
  /**
   * Maximum silence of a parent in ms while bytes are expected from it; then the attempt fails.
   * After a quarter of this time the piece is also requested from another parent. Default: that of
   * the downloader.
   */
  readonly stallTimeout?: number;
  /**
   * Time in ms to wait for the last parents to recover, once all parents are unreachable, refusing,
   * disconnected or silent. Each is retried at least every 5 s, and `progress().patienceLeft`
   * counts down.
   *
   * With 0, the download fails once each parent has failed five times in a row, after about 3 s. A
   * parent that sent wrong bytes is never retried. Default: that of the downloader, 60,000.
   */
  readonly patience?: number;
  /**
   * Receives the progress at most ten times a second, and once at the end. Default: no listener.
   */
  readonly onProgress?: (progress: TaskProgress) => void;
  /** Receives each event of the download. Default: no listener. */
  readonly onEvent?: (event: TaskEvent) => void;
}

/** Options of one download, with the sink that receives the content. */
export interface TaskDownloadOptions extends TaskOptions {
  /** Sink for the content: `memorySink()`, `fileSink(path)`, or a custom {@link TaskSink}. */
  readonly to: TaskSink;
}

/** Handle of one running download. */
export interface TaskDownload {
  /**
   * Resolves once all content is verified and visible at its destination. Rejects with the
   * {@link VortexError} that ended the download:
   *
   * - `DigestMismatch`: the content has the wrong digest, or two parents have different contents
   *   and no digest decides which is right
   * - `StorageFailed`: the sink failed
   * - `Aborted`, `Closed`: the download was cancelled, or its downloader closed
   * - `InvalidArgument`: the request does not fit the task
   * - when no parent is left: the code that all parents failed with, or `Unreachable` if they
   *   differ. The message names every parent; `cause` is an array of their errors.
   *
   * A rejection that is not handled here does not raise an unhandled rejection.
   */
  readonly done: Promise<TaskReport>;
  /**
   * Store of the verified pieces, to serve them to other peers during the download. It keeps
   * serving after a successful download, and stops when the download fails.
   */
  readonly store: PieceStore;
  /** Returns a snapshot of the progress. */
  progress(): TaskProgress;
  /** Stops requesting pieces; pieces in flight are completed. Idempotent. */
  pause(): void;
  /** Resumes after `pause`. Idempotent. */
  resume(): void;
  /** Cancels the download: `done` rejects with `Aborted` and `reason` as its cause. Idempotent. */
  cancel(reason?: unknown): void;
}

/** Handle of a download whose content is read as a stream. */
export interface TaskStream extends TaskDownload {
  /**
   * Content in order. Only verified pieces are delivered, and the last chunk only after the whole
   * is verified. The stream errors with the error of the download. Backpressure applies: without a
   * reader, no further pieces are requested.
   */
  readonly content: ReadableStream<Uint8Array>;
  /** Reads `content` to its end and returns all bytes. */
  bytes(): Promise<Uint8Array>;
}

/** State of a parent, or of one of its protocols, in a download. */
export type ParentState =
  /** Pieces are requested. */
  | "active"
  /** Has failed, and is retried after a pause. */
  | "waiting"
  /**
   * Has failed five times in a row and is retried only occasionally, or sent wrong bytes and is
   * never retried.
   */
  | "left-out";

/** Statistics of one parent in a download. */
export interface ParentProgress {
  /** Name of the parent: its `addr`, or its `apiAddr` without one. */
  readonly parent: string;
  /** Current state. */
  readonly state: ParentState;
  /** Measured download rate in bytes/s; 0 before the first measurement. */
  readonly rate: number;
  /** Bytes received from the parent, including those of pieces that were not completed. */
  readonly bytes: number;
  /** Verified pieces that this parent delivered, and delivered first. */
  readonly pieces: number;
  /** Number of failures. */
  readonly errors: number;
  /** Distinct errors of the parent, the newest last; at most eight. */
  readonly reasons: readonly VortexError[];
  /**
   * Statistics per protocol, if several are in use; the other fields then sum over all protocols.
   */
  readonly routes?: readonly RouteProgress[];
  /**
   * Protocols that are not used with this parent, each with the reason; absent if there are none.
   */
  readonly leftOut?: readonly LeftOutProtocol[];
}

/** Statistics of one protocol of a parent in a download. */
export interface RouteProgress {
  /** Protocol that carried the pieces. */
  readonly protocol: Protocol;
  /** Current state of the protocol. */
  readonly state: ParentState;
  /** Measured download rate in bytes/s; 0 before the first measurement. */
  readonly rate: number;
  /** Bytes received over the protocol, including those of pieces that were not completed. */
  readonly bytes: number;
  /** Verified pieces that arrived over this protocol, and arrived over it first. */
  readonly pieces: number;
  /** Number of failures. */
  readonly errors: number;
}

/** Progress of a download. Byte counts cover only the requested range. */
export interface TaskProgress {
  /** Bytes of verified pieces and of pieces in flight. */
  readonly bytes: number;
  /** Bytes to download; undefined until the parents have reported the lengths. */
  readonly totalBytes: number | undefined;
  /** Verified pieces. */
  readonly pieces: number;
  /** Pieces to download; undefined until the parents have reported the lengths. */
  readonly totalPieces: number | undefined;
  /** Bytes that an earlier download left in the sink and that were verified. */
  readonly resumedBytes: number;
  /** Download rate over the last five seconds, in bytes/s. */
  readonly rate: number;
  /**
   * Estimated time to the end in ms at the current rate. Undefined before the first 2 s, or the
   * first 1 % of the bytes.
   */
  readonly timeLeft: number | undefined;
  /** True between `pause` and `resume`. */
  readonly paused: boolean;
  /**
   * Remaining time in ms to wait for the last parents, see `patience`; undefined while any parent
   * answers.
   */
  readonly patienceLeft: number | undefined;
  /** Statistics per parent. */
  readonly parents: readonly ParentProgress[];
}

/** Strength of the verification of a task's content. */
export type Verified =
  /**
   * The whole content has this digest, `algorithm:encoded`, given by the caller or named by the
   * parents.
   */
  | { readonly level: "whole"; readonly digest: string; readonly by: "caller" | "parents" }
  /**
   * `pieces`: each piece has the digest that its parent announced or the caller gave. All
   * contributing parents have the same content, as far as they were compared: by up to three pieces
   * each.
   *
   * `none`: each piece has the digest that its parent announced, but some parent, or the pieces of
   * an earlier download, could not be compared. The content may mix several versions.
   */
  | { readonly level: "pieces" | "none" };

/** Result of a successful download. */
export interface TaskReport {
  /** ID of the task. */
  readonly taskId: string;
  /** Bytes of the requested range. */
  readonly bytes: number;
  /** Pieces of the requested range. */
  readonly pieces: number;
  /** Bytes that an earlier download left in the sink and that were verified. */
  readonly resumedBytes: number;
  /** Pieces that an earlier download left in the sink and that were verified. */
  readonly resumedPieces: number;
  /** Strength of the verification. */
  readonly verified: Verified;
  /** Duration of the download in ms. */
  readonly duration: number;
  /** Statistics per parent. */
  readonly parents: readonly ParentProgress[];
}

/** Event of a download. */
export type TaskEvent =
  /**
   * The lengths are known and the sink is open. `resumedPieces` pieces of an earlier download are
   * about to be verified.
   */
  | {
      readonly type: "started";
      readonly totalBytes: number;
      readonly totalPieces: number;
      readonly resumedPieces: number;
    }
  /** A piece is verified and stored. `parent` is undefined for a piece of an earlier download. */
  | {
      readonly type: "piece";
      readonly number: number;
      readonly bytes: number;
      readonly parent: string | undefined;
    }
  /** A piece of an earlier download failed verification, and is fetched again. */
  | { readonly type: "piece-damaged"; readonly number: number }
  /** A stalled or slow piece was also requested from a second parent, as a hedged attempt. */
  | { readonly type: "race"; readonly number: number; readonly parent: string }
  /** An attempt to fetch a piece failed. */
  | {
      readonly type: "piece-failed";
      readonly number: number;
      readonly parent: string;
      readonly error: VortexError;
      readonly protocol?: Protocol;
    }
  /** A parent is no longer used over this protocol; it is still used over others. */
  | {
      readonly type: "protocol-left-out";
      readonly parent: string;
      readonly protocol: Protocol;
      readonly reasons: readonly VortexError[];
    }
  /**
   * Pieces are fetched again from `parents`, since the content had the wrong digest, or some pieces
   * were unavailable. Only for a task whose digest is known.
   */
  | {
      readonly type: "started-over";
      readonly parents: readonly string[];
      readonly error: VortexError;
    }
  /** A parent is no longer used, or only retried occasionally. */
  | {
      readonly type: "parent-left-out";
      readonly parent: string;
      readonly reasons: readonly VortexError[];
    }
  /** A left-out parent delivered again, over `protocol` if it has several. */
  | { readonly type: "parent-back"; readonly parent: string; readonly protocol?: Protocol };

import {
  abortSignal,
  type Check,
  type Checks,
  callback,
  fields,
  integer,
  invalid,
  listOf,
  oneOf,
  required,
  size,
  text,
  textOr,
} from "../arguments.ts";
import type { VortexError } from "../errors.ts";
import type { PieceKind, RequestedRange, UnverifiedPieces } from "../piece.ts";
import { byteRangeChecks, pieceKinds, unverifiedPiecesCheck } from "../piece.ts";
import type { PieceStore } from "../store/store.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import { peerAddress } from "../transport/peer-address.ts";
import type { ExcludedProtocol, Protocol } from "../transport/protocol.ts";
import type { KnownLayout } from "./layout.ts";
import { listedPieceChecks } from "./layout.ts";
import type { TaskSink } from "./sink.ts";

/**
 * Peer from which pieces of a task are requested. At least one of `addr` and `apiAddr` is required.
 */
export interface TaskParent {
  /**
   * Address for piece requests: one `host:port` for the protocol of the downloader, or one address
   * per protocol. Default: the address that the peer announces with its pieces.
   */
  readonly addr?: PeerAddress | undefined;
  /**
   * Address of the peer's Dragonfly gRPC API, `host:port`. The download requests the list of the
   * peer's pieces there, and requests only listed pieces from the peer.
   *
   * Default if the request gives no lengths: the host of `addr` with port 4000, or `addr` itself
   * for a downloader over gRPC. Otherwise no list is requested, and the peer is assumed to have all
   * pieces.
   */
  readonly apiAddr?: string | undefined;
}

/**
 * Options of `streamTask`: the task, the parents to download it from, and limits. If neither
 * `contentLength` nor `pieces` is given, the lengths are requested from the parents.
 */
export interface TaskStreamOptions extends KnownLayout {
  /** ID of the task, 64 characters. Dragonfly uses hex digits. */
  readonly taskId: string;
  /**
   * ID of the requesting host, sent with every Dragonfly API request. Default: the value of the
   * downloader.
   */
  readonly hostId?: string | undefined;
  /**
   * Peers that have the whole task or some of its pieces. At least one is required. A string is
   * short for `{ addr }`.
   */
  readonly parents: readonly (string | TaskParent)[];
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind | undefined;
  /**
   * Expected digest of the whole content, as `algorithm:encoded` with `crc32`, `sha256` or
   * `sha512`. The content is verified by this digest. A parent with wrong content then cannot fail
   * the download while another parent has the right content.
   *
   * Default: the digest in the first valid response, if the lengths are requested from the parents.
   * If no digest is known, two parents with different contents fail the download with
   * `DigestMismatch`.
   */
  readonly digest?: string | undefined;
  /**
   * Byte range of the content to download. Only pieces that overlap the range are requested, and
   * the sink receives only bytes of the range. Default: the whole content. Cannot be combined with
   * `digest`, since the digest of the whole content cannot verify a part of it.
   */
  readonly range?: RequestedRange | undefined;
  /**
   * Aborts the download immediately, with the error code `Aborted`. A file sink keeps the pieces,
   * so that a later download can resume. Default: no signal.
   */
  readonly signal?: AbortSignal | undefined;
  /**
   * Rate limit of this download in bytes/s, at least 1. The rate limit of the downloader applies as
   * well. Default: only the rate limit of the downloader.
   */
  readonly rateLimit?: number | bigint | undefined;
  /**
   * Maximum number of pieces in flight, 1 to 1,024. Over gRPC, the pieces in flight have at most 16
   * MiB in total, unless a single piece is longer. Default: the value of the downloader, 8.
   */
  readonly concurrentPieceCount?: number | undefined;
  /**
   * Timeout in ms for one piece, from its request to its last byte. Delays by a rate limit or by
   * the sink do not count. Default: the value of the downloader.
   */
  readonly pieceTimeout?: number | undefined;
  /**
   * Maximum silence of a parent in ms while bytes are expected from it. The attempt fails when it
   * is exceeded. After a quarter of this time, the piece is also requested from another parent.
   * Default: the value of the downloader.
   */
  readonly stallTimeout?: number | undefined;
  /**
   * Policy for pieces that parents announce without a digest, see {@link UnverifiedPieces}. If such
   * a piece takes part, {@link TaskReport.verified} has level `whole` or `none`. With `refuse`, its
   * parent is not used again. Default: the value of the downloader, `accept`.
   */
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
  /**
   * Maximum time in ms to wait for the recovery of parents, once all parents that could deliver
   * missing pieces have failed. A parent has failed if it is unreachable, refuses requests,
   * disconnects or is silent. Each failed parent is retried at least every 5 s.
   * `progress().patienceLeft` counts down.
   *
   * With 0, the download fails once each parent has failed five times in a row, after about 3 s. A
   * parent that sent wrong bytes is never retried. Default: the value of the downloader, 60,000.
   */
  readonly patience?: number | undefined;
  /**
   * Called with the progress at most ten times a second, and once at the end. Exceptions of the
   * callback are ignored. Default: no listener.
   */
  readonly onProgress?: ((progress: TaskProgress) => void) | undefined;
  /**
   * Called with each event of the download. Exceptions of the callback are ignored. Default: no
   * listener.
   */
  readonly onEvent?: ((event: TaskEvent) => void) | undefined;
}

/** Options of `downloadTask`: those of `streamTask`, and the destination of the content. */
export interface TaskDownloadOptions extends TaskStreamOptions {
  /**
   * Destination that receives the content.
   *
   * - A path or `file:` URL: the file, written as by `fileSink(path)`. Edge workers have no files:
   *   `Unavailable`.
   * - A `WritableStream`: receives the content in order, and is closed after its last byte. It is
   *   aborted if the download fails, also if the download could not be started. It must not be
   *   locked; the download locks it at once. For a stream of `node:stream`, pass
   *   `Writable.toWeb(stream)`.
   * - A {@link TaskSink}: `memorySink()`, `fileSink(path)` or a custom sink.
   */
  readonly to: string | URL | WritableStream<Uint8Array<ArrayBuffer>> | TaskSink;
}

/**
 * Running download: a promise of its report, with methods to observe and control it. To cancel the
 * download, abort the option `signal`.
 *
 * Resolves once the whole content is verified and available at its destination. Rejects with the
 * {@link VortexError} that ended the download:
 *
 * - `InvalidArgument`: an option is invalid, or does not fit the task
 * - `DigestMismatch`: the content has the wrong digest, or two parents have different contents and
 *   no known digest decides which content is right
 * - `StorageFailed`: the destination failed
 * - `Aborted`: the signal aborted
 * - `Closed`: the downloader was closed
 * - if all parents failed: the code of their errors, or `Unreachable` if the codes differ. The
 *   message contains the error of every parent, and `cause` is an `AggregateError` of them.
 */
export interface TaskDownload extends Promise<TaskReport> {
  /**
   * Store that serves the verified pieces to other peers during the download. Its `getTask` waits
   * until the lengths of the task are known and the destination is open, so a server may have the
   * store at once. After a successful download it continues to serve the pieces. After a failed
   * download it serves nothing.
   */
  readonly store: PieceStore;
  /** Returns a snapshot of the progress. */
  progress(): TaskProgress;
  /** Stops requesting further pieces. Pieces in flight are completed. Idempotent. */
  pause(): void;
  /** Requests pieces again after {@link pause}. Idempotent. */
  resume(): void;
}

/** Running download whose content is read as a stream. */
export interface TaskStream {
  /**
   * Content of the task in order. Only verified pieces are delivered, and the last chunk is
   * delivered only after the whole content is verified. If the download fails, the stream fails
   * with the same error. Backpressure applies: if the stream is not read, no further pieces are
   * requested. Cancelling the stream cancels the download.
   */
  readonly content: ReadableStream<Uint8Array<ArrayBuffer>>;
  /**
   * Report of the download, once all content has been read. Rejects like {@link TaskDownload}. A
   * rejection without a handler does not raise an unhandled rejection, since `content` fails with
   * the same error.
   */
  readonly report: Promise<TaskReport>;
  /**
   * Lengths and digest of the task, once they are known: at the latest when the first piece is
   * requested. Rejects like {@link report}, and also without unhandled rejections.
   */
  readonly layout: Promise<StreamLayout>;
  /**
   * Store that serves the verified pieces to other peers while the reader has not consumed them.
   */
  readonly store: PieceStore;
  /**
   * Reads `content` to its end and returns all its bytes. Rejects with `InvalidArgument` if
   * `content` has another reader, or `bytes` was called before.
   */
  bytes(): Promise<Uint8Array<ArrayBuffer>>;
  /** Returns a snapshot of the progress. */
  progress(): TaskProgress;
  /** Stops requesting further pieces. Pieces in flight are completed. Idempotent. */
  pause(): void;
  /** Requests pieces again after {@link pause}. Idempotent. */
  resume(): void;
  /**
   * Cancels the download with `Aborted` unless it has ended, and resolves once it has ended.
   * Idempotent.
   */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Lengths and digest of a task that is read as a stream. */
export interface StreamLayout {
  /** Length of the whole task in bytes. */
  readonly contentLength: number;
  /** Offset of the first requested byte within the content of the task, in bytes. */
  readonly start: number;
  /** Number of requested bytes. */
  readonly length: number;
  /** Digest of the whole content as `algorithm:encoded`; undefined if unknown. */
  readonly digest: string | undefined;
}

/** State of a parent, or of one protocol of a parent, in a download. */
export type ParentState =
  /** Pieces may be requested from the parent. */
  | "active"
  /** The parent has failed, and is retried after a backoff. */
  | "waiting"
  /**
   * The parent is not used, or retried only occasionally. It has failed five times in a row, a
   * retry would have the same result, or it sent wrong bytes.
   */
  | "excluded";

/** Statistics of one parent in a download. */
export interface ParentProgress {
  /** Name of the parent: its `addr`, or its `apiAddr` if the request gives no `addr`. */
  readonly parent: string;
  /** Current state of the parent. */
  readonly state: ParentState;
  /** Measured download rate from the parent in bytes/s; 0 before the first measurement. */
  readonly rate: number;
  /** Number of bytes received from the parent, including the bytes of failed attempts. */
  readonly bytes: number;
  /**
   * Number of verified pieces that this parent delivered. If two parents send the same piece, it
   * counts only for the parent whose piece is complete first.
   */
  readonly pieces: number;
  /** Number of errors of the parent. */
  readonly errors: number;
  /** Distinct errors of the parent, at most eight. */
  readonly reasons: readonly VortexError[];
  /**
   * Statistics per protocol, if pieces are requested from the parent over several protocols. The
   * other fields are then sums over all protocols. Absent for a single protocol.
   */
  readonly routes?: readonly RouteProgress[];
  /**
   * Protocols that are not used with this parent, each with the reason. Absent if there are none.
   */
  readonly excluded?: readonly ExcludedProtocol[];
}

/** Statistics of one protocol of a parent in a download. */
export interface RouteProgress {
  /** Protocol that carried the pieces. */
  readonly protocol: Protocol;
  /** Current state of the protocol. */
  readonly state: ParentState;
  /** Measured download rate over the protocol in bytes/s; 0 before the first measurement. */
  readonly rate: number;
  /** Number of bytes received over the protocol, including the bytes of failed attempts. */
  readonly bytes: number;
  /**
   * Number of verified pieces that arrived over this protocol. If a piece arrives over two
   * protocols, it counts only for the protocol over which it is complete first.
   */
  readonly pieces: number;
  /** Number of errors of the parent over this protocol. */
  readonly errors: number;
}

/** Progress of a download. All numbers of bytes and pieces count only the requested range. */
export interface TaskProgress {
  /** Number of bytes in verified pieces and pieces in flight. */
  readonly bytes: number;
  /** Number of bytes to download; undefined until the lengths of the task are known. */
  readonly totalBytes: number | undefined;
  /** Number of verified pieces. */
  readonly pieces: number;
  /** Number of pieces to download; undefined until the lengths of the task are known. */
  readonly totalPieces: number | undefined;
  /** Number of bytes in verified pieces that an earlier download stored in the sink. */
  readonly resumedBytes: number;
  /** Average download rate over the last five seconds, in bytes/s. */
  readonly rate: number;
  /**
   * Estimated time to the end of the download at the current rate, in ms. Undefined until 2 s have
   * passed since the first byte, or 1 % of the bytes has arrived. Also undefined if the current
   * rate is 0.
   */
  readonly timeLeft: number | undefined;
  /** True between `pause` and `resume`. */
  readonly paused: boolean;
  /**
   * Remaining time in ms to wait for the recovery of failed parents, see
   * {@link TaskStreamOptions.patience}. Undefined while any parent may deliver missing pieces.
   */
  readonly patienceLeft: number | undefined;
  /** Statistics of each parent. */
  readonly parents: readonly ParentProgress[];
}

/** Strength of the verification of a task's content. */
export type Verified =
  /**
   * The whole content has the digest `digest`, as `algorithm:encoded`. It was given by the caller
   * (`by` = `caller`) or reported by a parent (`by` = `parents`).
   */
  | { readonly level: "whole"; readonly digest: string; readonly by: "caller" | "parents" }
  /**
   * No digest of the whole content is known.
   *
   * With `pieces`, the caller gave the digests of all pieces, or each piece has the digest that its
   * parent announced. All parents that delivered pieces have the same content, as far as they were
   * compared: by up to three pieces per parent.
   *
   * With `none`, the content may mix several versions: some parent, or the pieces of an earlier
   * download, could not be compared. Or a parent announced a piece without a digest, so that only
   * its length was verified. All other pieces have the digest that their parent announced.
   */
  | { readonly level: "pieces" | "none" };

/** Result of a successful download. */
export interface TaskReport {
  /** ID of the task. */
  readonly taskId: string;
  /** Number of bytes in the requested range. */
  readonly bytes: number;
  /** Number of pieces that overlap the requested range. */
  readonly pieces: number;
  /** Number of bytes in verified pieces that an earlier download stored in the sink. */
  readonly resumedBytes: number;
  /** Number of verified pieces that an earlier download stored in the sink. */
  readonly resumedPieces: number;
  /** Strength of the verification. */
  readonly verified: Verified;
  /** Duration of the download in ms. */
  readonly duration: number;
  /** Statistics of each parent. */
  readonly parents: readonly ParentProgress[];
}

/** Event of a download, see {@link TaskStreamOptions.onEvent}. */
export type TaskEvent =
  /**
   * The lengths of the task are known and the sink is open. Next, the `resumedPieces` pieces of an
   * earlier download are verified.
   */
  | {
      readonly type: "started";
      readonly totalBytes: number;
      readonly totalPieces: number;
      readonly resumedPieces: number;
    }
  /** A piece is verified and stored. */
  | {
      readonly type: "piece";
      readonly number: number;
      /** Number of bytes of the piece within the requested range. */
      readonly bytes: number;
      /** Parent that delivered the piece; undefined for a piece of an earlier download. */
      readonly parent: string | undefined;
      /** Position of the first byte of the whole piece in the content of the task. */
      readonly offset: number;
      /** Length of the whole piece in bytes. */
      readonly length: number;
      /**
       * Digest of the whole piece, as `algorithm:encoded`. Computed from the received bytes if the
       * parent announced none.
       */
      readonly digest: string;
      /**
       * Duration in ms from the request for the piece until it was stored. 0 for a piece of an
       * earlier download.
       */
      readonly cost: number;
      /**
       * Wall-clock time of the request for the piece, in ms since the Unix epoch; undefined for a
       * piece of an earlier download.
       */
      readonly startedAt: number | undefined;
    }
  /** A piece of an earlier download failed verification, and will be fetched again. */
  | { readonly type: "piece-damaged"; readonly number: number }
  /**
   * A piece was also requested from a second parent, `parent`, since its first attempt has stalled
   * or is slow.
   */
  | { readonly type: "hedged"; readonly number: number; readonly parent: string }
  /**
   * An attempt to fetch a piece from a parent failed. The field `protocol` is present if several
   * protocols are used with the parent.
   */
  | {
      readonly type: "piece-failed";
      readonly number: number;
      readonly parent: string;
      readonly error: VortexError;
      readonly protocol?: Protocol;
    }
  /** A parent is no longer used over one of its protocols. It is still used over others. */
  | {
      readonly type: "protocol-excluded";
      readonly parent: string;
      readonly protocol: Protocol;
      readonly reasons: readonly VortexError[];
    }
  /**
   * A new round of requests began, because the content had the wrong digest or some pieces were
   * unavailable. Missing and dropped pieces are fetched from `parents`. This event occurs only if
   * the digest of the whole content is known.
   */
  | {
      readonly type: "restarted";
      readonly parents: readonly string[];
      readonly error: VortexError;
    }
  /** A parent is no longer used in this round, or is retried only occasionally. */
  | {
      readonly type: "parent-excluded";
      readonly parent: string;
      readonly reasons: readonly VortexError[];
    }
  /**
   * A parent that was excluded delivered or announced a piece again. The field `protocol` is
   * present if several protocols are used with the parent.
   */
  | { readonly type: "parent-restored"; readonly parent: string; readonly protocol?: Protocol };

/** Check for a task ID: 64 printable ASCII characters, the field's length in a Vortex packet. */
const taskIdText: Check = (name, value) => {
  if (typeof value !== "string" || !/^[!-~]{64}$/.test(value))
    throw invalid(name, "64 printable ASCII characters, such as hex digits", value);
};

/** Check for a range whose end is not before its start. */
const requestedRange: Check = (name, value, owner) => {
  fields(byteRangeChecks)(name, value, owner);
  const { start, end } = value as RequestedRange;
  if (end !== undefined && end < start)
    throw invalid(`${name}.end`, `at least ${name}.start, ${start}`, end);
};

const parentChecks: Checks<TaskParent> = { addr: peerAddress, apiAddr: text };

/**
 * Check of each field of {@link TaskStreamOptions}; a failed one throws `InvalidArgument`. The
 * upper bounds of the range depend on the task.
 */
export const taskStreamChecks: Checks<TaskStreamOptions> = {
  taskId: required(taskIdText),
  hostId: text,
  parents: required(listOf(textOr("host:port or a parent", fields(parentChecks)))),
  kind: oneOf(...pieceKinds),
  digest: text,
  range: requestedRange,
  contentLength: size(0),
  pieceLength: size(1),
  pieces: listOf(fields(listedPieceChecks)),
  signal: abortSignal,
  rateLimit: size(1),
  concurrentPieceCount: integer(1, 1024),
  pieceTimeout: integer(1),
  stallTimeout: integer(1),
  unverifiedPieces: unverifiedPiecesCheck,
  patience: integer(0),
  onProgress: callback,
  onEvent: callback,
};

/** Check of each field of {@link TaskDownloadOptions}; a failed one throws `InvalidArgument`. */
export const taskDownloadChecks: Checks<TaskDownloadOptions> = {
  ...taskStreamChecks,
  // Accepts anything: `destinationOf` checks the value.
  to: () => {},
};

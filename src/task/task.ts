import type { VortexError } from "../errors.ts";
import type { ByteRange, PieceKind } from "../piece.ts";
import type { PieceStore } from "../store/store.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import type { LeftOutProtocol, Protocol } from "../transport/protocol.ts";
import type { KnownLayout } from "./layout.ts";
import type { TaskSink } from "./sink.ts";

/** A peer to fetch from. At least one of the two addresses is given. */
export interface TaskParent {
  /**
   * The peer, `host:port`, at its port for the downloader's protocol, or with an address for each protocol. Default: what the
   * peer itself announces, for each piece.
   */
  readonly addr?: PeerAddress;
  /**
   * The peer, `host:port`, at its port for the Dragonfly API over gRPC. When given, the peer is asked which pieces it has,
   * and is asked for no others. Default for a task whose lengths are not given: the host of `addr` at port 4000, or `addr`
   * itself for a downloader over gRPC; else nothing is asked, and the peer is taken to have all pieces.
   */
  readonly apiAddr?: string;
}

/**
 * Which task, and from whom. Where the caller knows neither `contentLength` nor `pieces`, the parents are asked.
 */
export interface TaskRequest extends KnownLayout {
  /** 64 characters, hex digits in stock Dragonfly. */
  readonly taskId: string;
  /** The asking host's id, as the Dragonfly API wants it. */
  readonly hostId: string;
  /** Peers that have the task or parts of it; at least one. A string stands for `{ addr }`. */
  readonly parents: readonly (string | TaskParent)[];
  /** Default `standard`. */
  readonly kind?: PieceKind;
  /**
   * What the whole content must turn out to be: `crc32:`, `sha256:` or `sha512:`. Checked while the content comes. Parents that
   * have another content cannot make the task fail then, as long as one has all of the right one. Default: what the parents say,
   * if they say the same; else two parents with different contents fail the task as `DigestMismatch`.
   */
  readonly digest?: string;
  /**
   * Fetches only the pieces that these bytes of the content touch, and hands only these bytes to the sink. A digest of the
   * whole cannot be checked then, so `digest` must not be given.
   */
  readonly range?: ByteRange;
}

/** How a task is fetched. */
export interface TaskOptions {
  /** Ends the download at once, with `Aborted`. What a file sink has is kept, for another try. Default: none. */
  readonly signal?: AbortSignal;
  /** Bytes a second that this task may take, at least 1. Default: no limit but the downloader's. */
  readonly rateLimit?: number;
  /** Pieces at a time, 1 to 1,024; over gRPC fewer where they are longer than 2 MiB: 16 MiB together. Default: the downloader's, 8. */
  readonly concurrentPieceCount?: number;
  /**
   * Milliseconds for one piece, from asking for it to its last byte. Time in which a rate limit or the sink holds it back does
   * not count. Default: the downloader's.
   */
  readonly pieceTimeout?: number;
  /**
   * Milliseconds without a byte from a parent that owes one, after which it has failed. After a quarter of it, another parent
   * is asked too. Default: the downloader's.
   */
  readonly stallTimeout?: number;
  /**
   * Milliseconds for which the last parents are waited for once all are gone: refused, unreachable,
   * lost or silent. They are asked every 5 s at least, and `progress().patienceLeft` counts down.
   * With 0, the download ends when each has failed five times in a row, which takes some 3 s.
   * Parents that sent wrong bytes are never asked again. Default: the downloader's, 60,000.
   */
  readonly patience?: number;
  /** Told of progress, at most ten times a second, and at the end. Default: nobody is. */
  readonly onProgress?: (progress: TaskProgress) => void;
  /** Told of what happens. Default: nobody is. */
  readonly onEvent?: (event: TaskEvent) => void;
}

/** {@link TaskOptions}, and where the bytes go. */
export interface TaskDownloadOptions extends TaskOptions {
  /** `memorySink()`, `fileSink(path)`, or one of your own. */
  readonly to: TaskSink;
}

/** A task on its way in. */
export interface TaskDownload {
  /**
   * Resolves when all is there, right, and visible where it was to go. Rejects with the `VortexError` that ended the
   * download: `DigestMismatch` when the whole has another digest, or when two parents have different contents and no digest tells
   * which is right; `StorageFailed` from the sink; `Aborted`; `Closed`;
   * `InvalidArgument`; and when no parent is left, with the code that all of them failed with or else `Unreachable`, a
   * message that names every one, and all their reasons as an array in `cause`. It need not be awaited.
   */
  readonly done: Promise<TaskReport>;
  /** The pieces that are there and right, to be served while the rest still comes; closes with the download unless it is complete. */
  readonly store: PieceStore;
  /** How far it is. */
  progress(): TaskProgress;
  /** No further pieces are begun; those under way are finished. Idempotent. */
  pause(): void;
  /** Goes on after `pause`. Idempotent. */
  resume(): void;
  /** Ends the download; `done` rejects with `Aborted`, `reason` as its cause. Idempotent. */
  cancel(reason?: unknown): void;
}

/** A task that is read as it comes. */
export interface TaskStream extends TaskDownload {
  /**
   * The content in order. Whole pieces that are right are handed out, the last chunk only when the whole is; the stream errors
   * with what ended the download. While nobody reads, no further pieces are begun.
   */
  readonly content: ReadableStream<Uint8Array>;
  /** All of the content, once it is right. Reads `content`. */
  bytes(): Promise<Uint8Array>;
}

/** Where a parent stands. */
export type ParentState =
  /** Asked for pieces. */
  | "active"
  /** Has failed, and is asked again after a pause. */
  | "waiting"
  /** Failed five times in a row, and is asked now and then; or sent wrong bytes, and is not. */
  | "left-out";

/** What was seen of one parent. */
export interface ParentProgress {
  /** `addr` of the parent, or its `apiAddr`. */
  readonly parent: string;
  /** Where it stands. */
  readonly state: ParentState;
  /** Bytes a second, as measured while it was asked; 0 before. */
  readonly rate: number;
  /** Bytes that came from it, also of pieces that were not completed. */
  readonly bytes: number;
  /** Pieces that it delivered first, and right. */
  readonly pieces: number;
  /** Failures, all of them. */
  readonly errors: number;
  /** What it failed with, each reason once, the newest last, eight at most. */
  readonly reasons: readonly VortexError[];
  /** Each protocol of its own, where several are used at once. The figures above are those of all together. */
  readonly routes?: readonly RouteProgress[];
  /** Protocols that are not used with it, each with the reason; absent when there are none. */
  readonly leftOut?: readonly LeftOutProtocol[];
}

/** What was seen of one protocol of a parent. */
export interface RouteProgress {
  /** What its pieces travelled over. */
  readonly protocol: Protocol;
  /** Whether it is used. */
  readonly state: ParentState;
  /** Bytes a second, as measured while it was asked; 0 before. */
  readonly rate: number;
  /** Bytes that came over it, also of pieces that were not completed. */
  readonly bytes: number;
  /** Pieces that came over it first, and right. */
  readonly pieces: number;
  /** Failures, all of them. */
  readonly errors: number;
}

/** How far a task is. Bytes are those that are wanted. */
export interface TaskProgress {
  /** Bytes that are there and right, and those of pieces under way. */
  readonly bytes: number;
  /** Undefined until the parents have told. */
  readonly totalBytes: number | undefined;
  /** Pieces that are there and right. */
  readonly pieces: number;
  /** Pieces that are wanted. Undefined until the parents have told. */
  readonly totalPieces: number | undefined;
  /** Bytes that an earlier download had left, and that were right. */
  readonly resumedBytes: number;
  /** Bytes a second over the last seconds. */
  readonly rate: number;
  /** Milliseconds until the end at this rate; undefined before 2 s of bytes or 1 % of them. */
  readonly timeLeft: number | undefined;
  /** Whether `pause` was called, and not `resume` after it. */
  readonly paused: boolean;
  /** Milliseconds left to wait for gone parents, see `patience`; undefined while one answers. */
  readonly patienceLeft: number | undefined;
  /** What was seen of each parent. */
  readonly parents: readonly ParentProgress[];
}

/** What vouched for the content of a task. */
export type Verified =
  /** The whole has this digest, `algorithm:encoded`: the caller's, or the one that the parents name for the task. */
  | { readonly level: "whole"; readonly digest: string; readonly by: "caller" | "parents" }
  /**
   * `pieces`: each piece has the digest that its parent announced, or the caller named, and all parents that it came from have the
   * same content, as far as they were asked: up to three pieces each.
   *
   * `none`: each piece has the digest that its parent announced, and some parent, or what an earlier download left, could not be
   * compared with the others. The content may be made of several.
   */
  | { readonly level: "pieces" | "none" };

/** How a download went. */
export interface TaskReport {
  /** The task. */
  readonly taskId: string;
  /** Bytes that were wanted. */
  readonly bytes: number;
  /** Pieces that were wanted. */
  readonly pieces: number;
  /** Bytes and pieces that an earlier download had left, and that were right. */
  readonly resumedBytes: number;
  /** Pieces that an earlier download had left, and that were right. */
  readonly resumedPieces: number;
  /** What vouched for the content. */
  readonly verified: Verified;
  /** Milliseconds. */
  readonly duration: number;
  /** What was seen of each parent. */
  readonly parents: readonly ParentProgress[];
}

/** What happens in a download. */
export type TaskEvent =
  /** The lengths are known and the sink is open; `resumedPieces` of an earlier download are being compared. */
  | {
      readonly type: "started";
      readonly totalBytes: number;
      readonly totalPieces: number;
      readonly resumedPieces: number;
    }
  /** A piece is there and right; `parent` is undefined when an earlier download had left it. */
  | {
      readonly type: "piece";
      readonly number: number;
      readonly bytes: number;
      readonly parent: string | undefined;
    }
  /** A piece that an earlier download left is not what it should be, and is fetched. */
  | { readonly type: "piece-damaged"; readonly number: number }
  /** A second parent was asked for a piece that stalls or is slow. */
  | { readonly type: "race"; readonly number: number; readonly parent: string }
  /** An attempt at a piece failed. */
  | {
      readonly type: "piece-failed";
      readonly number: number;
      readonly parent: string;
      readonly error: VortexError;
      readonly protocol?: Protocol;
    }
  /** A parent is asked over one protocol less; others remain. */
  | {
      readonly type: "protocol-left-out";
      readonly parent: string;
      readonly protocol: Protocol;
      readonly reasons: readonly VortexError[];
    }
  /**
   * What came does not make the whole, or not all of it can be had: pieces are fetched again from these parents. Only where the digest
   * of the whole is known.
   */
  | {
      readonly type: "started-over";
      readonly parents: readonly string[];
      readonly error: VortexError;
    }
  /** A parent is not counted on any more. */
  | {
      readonly type: "parent-left-out";
      readonly parent: string;
      readonly reasons: readonly VortexError[];
    }
  /** A parent that was left out delivers again, over `protocol` where it has several. */
  | { readonly type: "parent-back"; readonly parent: string; readonly protocol?: Protocol };

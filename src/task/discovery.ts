import type { PieceKind } from "../piece.ts";

/** Lengths of a task and its division into pieces, as reported by a parent. */
export interface TaskOutline {
  /** Length of the task in bytes. */
  readonly contentLength: number;
  /** Length of every piece except the last, in bytes. */
  readonly pieceLength: number;
  /** Number of pieces; 0 for an empty task. */
  readonly pieceCount: number;
  /** Digest of the whole content, `algorithm:encoded`, if the parent knows it. */
  readonly digest?: string;
}

/** Piece that a parent has, and the addresses where it serves the piece. */
export interface PieceLocation {
  /** Number of the piece in the task, from 0. */
  readonly number: number;
  /** Offset of the piece within the task's content, in bytes. */
  readonly offset: number;
  /** Length of the piece in bytes. */
  readonly length: number;
  /** Address of the parent for Vortex over TCP, `host:port`. */
  readonly tcpAddr?: string;
  /** Address of the parent for Vortex over QUIC, `host:port`. */
  readonly quicAddr?: string;
}

/**
 * Asks parents for the lengths of a task and for the pieces that they have. The implementation in
 * this package uses the Dragonfly gRPC API. A download does not need a directory if the caller
 * knows the lengths.
 *
 * `addr` is the address of the parent's Dragonfly API, `host:port`. Answers are validated for form:
 * numbers are unsigned integers of the right width, and addresses are well formed. The caller
 * checks that they fit the task.
 */
export interface TaskDirectory {
  /**
   * Asks a parent for the lengths and the digest of a task.
   *
   * Rejects with a `VortexError`:
   *
   * - `NotFound`: the parent does not have the task, or does not know its length yet
   * - `RemoteUnimplemented`: the parent does not serve this call
   * - `Aborted`: the signal aborted
   * - any other code of a downloader's calls
   */
  stat(addr: string, taskId: string, options: DirectoryOptions): Promise<TaskOutline>;
  /**
   * Yields the pieces that a parent has, then each new piece as the parent obtains it. Ends when
   * the parent will not announce any more. Throws the same errors that {@link stat} rejects with.
   * Leaving the loop early cancels the call.
   */
  sync(addr: string, taskId: string, options: SyncOptions): AsyncIterable<PieceLocation>;
}

/** Options of every call to a parent. */
export interface DirectoryOptions {
  /** Cancels the call. */
  readonly signal: AbortSignal;
  /** ID of the requesting host. */
  readonly hostId: string;
  /** Kind of the task. */
  readonly kind: PieceKind;
}

/** Options of {@link TaskDirectory.sync}. */
export interface SyncOptions extends DirectoryOptions {
  /** Numbers of the wanted pieces; the parent announces no others. */
  readonly numbers: readonly number[];
}

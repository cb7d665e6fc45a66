import type { PieceKind } from "../piece.ts";

/** Lengths of a task and its division into pieces, as reported by a parent. */
export interface TaskOutline {
  /** Length of the content of the task in bytes. */
  readonly contentLength: number;
  /** Length of every piece except the last, in bytes. */
  readonly pieceLength: number;
  /** Number of pieces; 0 for an empty task. */
  readonly pieceCount: number;
  /**
   * Digest of the whole content, as `algorithm:encoded`. Absent if the parent did not report it.
   */
  readonly digest?: string;
}

/** Piece that a parent has, and the addresses at which the parent serves it. */
export interface PieceLocation {
  /** Number of the piece in the task, from 0. */
  readonly number: number;
  /** Offset of the piece within the task's content, in bytes. */
  readonly offset: number;
  /** Length of the piece in bytes. */
  readonly length: number;
  /**
   * Address at which the parent serves the piece with the Vortex protocol over TCP, `host:port`.
   * Absent if the parent announced none.
   */
  readonly tcpAddr?: string;
  /**
   * Address at which the parent serves the piece with the Vortex protocol over QUIC, `host:port`.
   * Absent if the parent announced none.
   */
  readonly quicAddr?: string;
  /**
   * True if the gRPC response has the header `vortex-peer: 1`, which the servers of this library
   * send. Only then is `quicAddr` dialled, unless the options allow it otherwise. Not
   * authenticated. Default: false.
   */
  readonly vortexPeer?: boolean;
}

/**
 * Requests the lengths of a task and the list of available pieces from parents. The implementation
 * in this package uses the Dragonfly gRPC API. A download needs no directory if the caller gives
 * the lengths.
 *
 * The parameter `addr` is the address of the parent's Dragonfly gRPC API, `host:port`.
 * Implementations must validate the form of responses: numbers are unsigned integers within their
 * width, and addresses are well-formed. The caller of the directory checks that responses fit the
 * task.
 */
export interface TaskDirectory {
  /**
   * Requests the lengths and the digest of a task from a parent.
   *
   * Rejects with a `VortexError` with one of these codes:
   *
   * - `NotFound`: the parent does not have the task, or does not know its length yet
   * - `RemoteUnimplemented`: the parent does not implement this RPC method
   * - `Aborted`: the signal aborted
   * - any other code that the methods of a downloader reject with
   */
  stat(addr: string, taskId: string, options: DirectoryOptions): Promise<TaskOutline>;
  /**
   * Yields the pieces that a parent has, then each further piece once the parent has it. Ends when
   * the parent will announce no more pieces. Throws the same errors that {@link stat} rejects with.
   * Leaving the loop early cancels the RPC.
   */
  sync(addr: string, taskId: string, options: SyncOptions): AsyncIterable<PieceLocation>;
}

/** Options of each RPC of a {@link TaskDirectory}. */
export interface DirectoryOptions {
  /** Cancels the RPC. */
  readonly signal: AbortSignal;
  /** ID of the requesting host, a field of each request. */
  readonly hostId: string;
  /** Kind of the task. */
  readonly kind: PieceKind;
}

/** Options of {@link TaskDirectory.sync}. */
export interface SyncOptions extends DirectoryOptions {
  /** Numbers of the requested pieces. The parent announces only these pieces. */
  readonly numbers: readonly number[];
}

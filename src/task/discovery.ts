import type { PieceKind } from "../piece.ts";

/** How a task is cut into pieces, as a parent tells it. */
export interface TaskOutline {
  /** Bytes of the task. */
  readonly contentLength: number;
  /** Bytes of every piece but the last. */
  readonly pieceLength: number;
  /** Number of pieces; 0 for an empty task. */
  readonly pieceCount: number;
  /** Digest of the whole content, `algorithm:encoded`, if the parent knows it. */
  readonly digest?: string;
}

/** A piece that a parent has, and where it serves it. */
export interface PieceLocation {
  /** Position in the task, from 0. */
  readonly number: number;
  /** First byte of the piece within the task's content. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** `host:port` at which the parent serves the piece over Vortex on TCP. */
  readonly tcpAddr?: string;
  /** `host:port` at which the parent serves the piece over Vortex on QUIC. */
  readonly quicAddr?: string;
}

/**
 * Asks parents what they have. A task of which the caller knows the plan and the parents does without; the
 * implementation speaks the Dragonfly API over gRPC.
 *
 * `addr` is the parent's address for that API, `host:port`. What comes from a parent is checked for its form: numbers are
 * unsigned integers within their width, addresses are well formed. Whether it fits the task is for the caller to judge.
 */
export interface TaskDirectory {
  /**
   * What a parent says about a task.
   *
   * Rejects with a `VortexError`: `NotFound` when the parent does not have the task, or does not know its length yet;
   * `RemoteUnimplemented` when it does not serve the call; `Aborted`; else as calls of a downloader do.
   */
  stat(addr: string, taskId: string, options: DirectoryOptions): Promise<TaskOutline>;
  /**
   * The pieces that a parent has, and then those that come, as they come. Ends when the parent will have no further ones
   * to tell of. Throws as {@link stat} rejects. Whoever leaves the iteration early cancels the call.
   */
  sync(addr: string, taskId: string, options: SyncOptions): AsyncIterable<PieceLocation>;
}

/** What every question to a parent is told. */
export interface DirectoryOptions {
  /** Ends the call. */
  readonly signal: AbortSignal;
  /** The asking host's id. */
  readonly hostId: string;
  /** Kind of the task. */
  readonly kind: PieceKind;
}

/** What {@link TaskDirectory.sync} is told. */
export interface SyncOptions extends DirectoryOptions {
  /** The pieces wanted, by number. The parent is asked for no others. */
  readonly numbers: readonly number[];
}

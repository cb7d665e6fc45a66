import type { ByteRange, PieceKind, PieceMetadata } from "../piece.ts";

/** What a server serves from. Implementations: `MemoryPieceStore` here, `FilePieceStore` in the file adapter. */
export interface PieceStore {
  /**
   * The piece, or undefined when the store does not have it. May reject: the peer then hears of an internal error, without
   * its details.
   */
  getPiece(
    request: StoredPieceRequest,
    options?: { readonly signal?: AbortSignal },
  ): Promise<StoredPiece | undefined>;
  /** What is known of the task, or undefined when the store does not have it. */
  getTask(
    taskId: string,
    options?: { readonly signal?: AbortSignal },
  ): Promise<StoredTask | undefined>;
}

/** Names a piece in a store. Whatever a peer sent: any text, any number. */
export interface StoredPieceRequest {
  /** Any text. */
  readonly taskId: string;
  /** Unsigned, 32 bits. */
  readonly number: number;
  /** A task of another kind does not have the piece. */
  readonly kind: PieceKind;
}

/** A piece that a store has. */
export interface StoredPiece {
  /** What the peer is told of it. */
  readonly metadata: PieceMetadata;
  /**
   * The bytes of the piece, or of a range of it, in chunks that the reader may keep. The store never reads further than
   * the iteration has gone, by more than a chunk. Throws when the bytes cannot be read any more, or have changed.
   */
  read(range?: ByteRange): AsyncIterable<Uint8Array>;
}

/** A task that a store has, in whole or in part. */
export interface StoredTask {
  /** 64 characters, hex digits in stock Dragonfly. */
  readonly taskId: string;
  /** Kind of all of its pieces. */
  readonly kind: PieceKind;
  /** Bytes. */
  readonly contentLength: number;
  /** Bytes of every piece but the last. */
  readonly pieceLength: number;
  /** Digest of the whole content, `sha256:…`, if the store knows it. */
  readonly digest?: string;
  /** Unix seconds. */
  readonly createdAtSeconds: bigint;
  /** False while pieces are still to come, or for a task that was given up half way. Absent: true. */
  readonly complete?: boolean;
  /** Metadata of the pieces that the store has now, by ascending number. */
  pieces(): Iterable<PieceMetadata>;
  /**
   * The pieces that the store has already, by ascending number, and then those that come, as they come: each of them
   * once, and none lost between the two. So whoever wants all takes `watch()` alone, not `pieces()` before it. Ends when
   * the task is complete, at once if it is already. Throws when the task is given up, and an `Aborted` error when the
   * signal fires, which also frees whatever the iteration holds. Watchers do not slow the task down, and do not see each
   * other. Absent: no pieces come any more, and `pieces()` are all.
   */
  watch?(options: { readonly signal: AbortSignal }): AsyncIterable<PieceMetadata>;
}

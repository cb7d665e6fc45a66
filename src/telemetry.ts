/**
 * What a program that watches this library is told of: operations, with their beginning and end. Nothing here depends on
 * OpenTelemetry; `openTelemetry` in the adapters makes spans and metrics of it. Without a {@link Telemetry} nothing is made up
 * to be told.
 */

import type { VortexError } from "./errors.ts";
import type { PieceKind } from "./piece.ts";
import type { Protocol } from "./transport/protocol.ts";

/** Hears of operations. Called on the path of every piece, so it should be quick; what it throws is dropped. */
export interface Telemetry {
  /** An operation begins. Called before anything is waited for, in the caller's own context. */
  begin(start: OperationStart): Operation;
}

/**
 * | name | as client | as server |
 * | --- | --- | --- |
 * | `download_task` | a whole task is fetched | DownloadTask is answered |
 * | `download_piece` | a piece is fetched, from the call to the last byte | a piece is sent |
 * | `stat_task` | a peer is asked about a task | StatTask or a twin is answered |
 * | `stat_local_task` | | StatLocalTask is answered |
 * | `sync_pieces` | a peer is asked for its pieces | SyncPieces is answered |
 */
export type OperationName =
  | "download_task"
  | "download_piece"
  | "stat_task"
  | "stat_local_task"
  | "sync_pieces";

/** What is known of an operation when it begins. */
export interface OperationStart {
  /** What is done. */
  readonly name: OperationName;
  /** Whether this side asks or answers. */
  readonly role: "client" | "server";
  /** The task that it is about. */
  readonly taskId: string;
  /** Of the task; undefined where the call does not tell. */
  readonly kind?: PieceKind | undefined;
  /** Of the piece, for `download_piece`. */
  readonly number?: number | undefined;
  /** The other side, `host:port`, where it is one. */
  readonly addr?: string | undefined;
  /** What the piece travels over, where the downloader chose it by itself. */
  readonly protocol?: Protocol | undefined;
  /** Why, in one line for people. */
  readonly protocolReason?: string | undefined;
  /** What the asking side sent with a call over gRPC; it may tell of the operation there that this one belongs to. */
  readonly headers?: Headers | undefined;
}

/** An operation that goes on. */
export interface Operation {
  /** It is over. Called once. */
  end(result: OperationResult): void;
  /** Runs `work` so that operations that begin in it, before it first waits, belong to this one. */
  run<T>(work: () => T): T;
  /**
   * Headers for a call to the other side, so that what it does there belongs to this operation: `traceparent` of W3C Trace Context, say.
   * Only gRPC has room for them. Absent: none.
   */
  headers?(): Readonly<Record<string, string>>;
}

/** How an operation went. */
export interface OperationResult {
  /** Bytes of content that it moved; those of a failed one need not be told. */
  readonly bytes?: number;
  /** What it failed with. Errors of kind `aborted` are ends by choice. */
  readonly error?: VortexError | undefined;
}

/**
 * Begins an operation for whoever listens, and guards against what a listener throws. Its `end` counts once; later ones are
 * dropped. Undefined without a listener.
 */
export function beginOperation(
  telemetry: Telemetry | undefined,
  start: OperationStart,
): Operation | undefined {
  const operation = telemetry && quietly(() => telemetry.begin(start));
  if (operation === undefined) return undefined;
  let ended = false;
  return {
    end(result) {
      if (ended) return;
      ended = true;
      quietly(() => operation.end(result));
    },
    headers: () => quietly(() => operation.headers?.()) ?? {},
    run: (work) => {
      // The work's own errors are the caller's, and the work is done in any case.
      let outcome: { readonly value: ReturnType<typeof work> } | undefined;
      let failure: { readonly error: unknown } | undefined;
      quietly(() =>
        operation.run(() => {
          try {
            outcome = { value: work() };
          } catch (error) {
            failure = { error };
          }
        }),
      );
      if (failure !== undefined) throw failure.error;
      return outcome === undefined ? work() : outcome.value;
    },
  };
}

/** The steps of an iteration, each within an operation, so that what the first begins belongs to it. */
export function eachInOperation<T>(
  operation: Operation | undefined,
  source: AsyncIterable<T>,
): AsyncIterable<T> {
  if (operation === undefined) return source;
  return {
    [Symbol.asyncIterator]() {
      const steps = source[Symbol.asyncIterator]();
      return {
        next: () => operation.run(() => steps.next()),
        return: async () => (await steps.return?.()) ?? { done: true, value: undefined },
      };
    },
  };
}

function quietly<T>(tell: () => T): T | undefined {
  try {
    return tell();
  } catch {
    // A listener's fault must not become that of the operation.
    return undefined;
  }
}

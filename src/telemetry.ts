/**
 * Interface for observers of this library: each operation reports its start and its end.
 * Independent of OpenTelemetry; the adapter `openTelemetry` turns operations into spans and
 * metrics. Without a {@link Telemetry} nothing is collected.
 */

import type { VortexError } from "./errors.ts";
import type { PieceKind } from "./piece.ts";
import type { Protocol } from "./transport/protocol.ts";

/**
 * Observer of operations. It runs on the path of every piece, so its methods should return fast.
 * Exceptions that it throws are dropped.
 */
export interface Telemetry {
  /** Starts an operation. Called synchronously, in the caller's context, before any await. */
  begin(start: OperationStart): Operation;
}

/**
 * Kinds of operation:
 *
 * - `download_task`: a client fetches a whole task; a server answers DownloadTask.
 * - `download_piece`: a client fetches a piece, from the call to the last byte; a server sends one.
 * - `stat_task`: a client asks a peer about a task; a server answers StatTask, or its variant for
 *   another kind of task.
 * - `stat_local_task`: a server answers StatLocalTask.
 * - `sync_pieces`: a client asks a peer for the list of its pieces; a server answers SyncPieces.
 */
export type OperationName =
  | "download_task"
  | "download_piece"
  | "stat_task"
  | "stat_local_task"
  | "sync_pieces";

/** Facts known at the start of an operation. */
export interface OperationStart {
  /** Kind of operation. */
  readonly name: OperationName;
  /** Role of this side: `client` sends the request, `server` answers it. */
  readonly role: "client" | "server";
  /** Id of the task. */
  readonly taskId: string;
  /** Kind of the task; undefined where the call does not carry it. */
  readonly kind?: PieceKind | undefined;
  /** Number of the piece, for `download_piece`. */
  readonly number?: number | undefined;
  /** Address of the peer, `host:port`; undefined for operations with several peers. */
  readonly addr?: string | undefined;
  /** Protocol of the request, set only where the downloader selected it (`auto`, `hybrid`). */
  readonly protocol?: Protocol | undefined;
  /** Reason for the choice of `protocol`, one line for people. */
  readonly protocolReason?: string | undefined;
  /** Headers of an incoming gRPC call. They may carry the trace context of the client. */
  readonly headers?: Headers | undefined;
}

/** Operation in progress. */
export interface Operation {
  /** Ends the operation. Called once. */
  end(result: OperationResult): void;
  /**
   * Runs `work` with this operation as the parent of all operations that `work` starts
   * synchronously.
   */
  run<T>(work: () => T): T;
  /**
   * Returns headers that make the peer's operation a child of this one, for example `traceparent`
   * (W3C Trace Context). Only gRPC calls send them. Absent: no headers.
   */
  headers?(): Readonly<Record<string, string>>;
}

/** Outcome of an operation. */
export interface OperationResult {
  /** Bytes of content transferred. May be missing for a failed operation. */
  readonly bytes?: number;
  /** Error of a failed operation. Kind `aborted` means that the caller ended it on purpose. */
  readonly error?: VortexError | undefined;
}

/**
 * Starts an operation and isolates the library from the observer: its exceptions are dropped, and
 * `end` is forwarded only once. Returns undefined without an observer.
 */
export function beginOperation(
  telemetry: Telemetry | undefined,
  start: OperationStart,
): Operation | undefined {
  const operation = telemetry && ignoreErrors(() => telemetry.begin(start));
  if (operation === undefined) return undefined;
  let ended = false;
  return {
    end(result) {
      if (ended) return;
      ended = true;
      ignoreErrors(() => operation.end(result));
    },
    headers: () => ignoreErrors(() => operation.headers?.()) ?? {},
    run: (work) => {
      // Errors of `work` go to the caller. `work` runs even if the observer throws.
      let outcome: { readonly value: ReturnType<typeof work> } | undefined;
      let failure: { readonly error: unknown } | undefined;
      ignoreErrors(() =>
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

/** Wraps an iterable so that each step runs within `operation`, see {@link Operation.run}. */
export function iterateInOperation<T>(
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

/**
 * Calls an observer; returns undefined if it throws, so that its faults do not fail the operation.
 */
function ignoreErrors<T>(notify: () => T): T | undefined {
  try {
    return notify();
  } catch {
    return undefined;
  }
}

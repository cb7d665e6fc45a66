/**
 * Interface for observers of this library: each operation reports its start and its end.
 * Independent of OpenTelemetry: the adapter `openTelemetry` converts operations to spans and
 * metrics. Without a {@link Telemetry} nothing is recorded.
 */

import type { VortexError } from "./errors.ts";
import type { PieceKind } from "./piece.ts";
import type { Protocol } from "./transport/protocol.ts";

/**
 * Observer of operations, such as the download of a piece. Its methods are called for every piece,
 * so they should return fast. Exceptions of an observer are ignored.
 */
export interface Telemetry {
  /**
   * Called when an operation starts, synchronously in the caller's async context, before any
   * `await`. Returns an object through which the library reports the end of the operation.
   */
  begin(start: OperationStart): Operation;
}

/**
 * Kind of an operation. The same name is used at the client and at the server:
 *
 * - `download_task`: a client fetches a whole task; a server responds to DownloadTask.
 * - `download_piece`: a client fetches a piece, from the call to the last byte; a server sends a
 *   piece.
 * - `stat_task`: a client requests the length of a task; a server responds to StatTask, or to its
 *   variant for another kind of task.
 * - `stat_local_task`: a server responds to StatLocalTask.
 * - `sync_pieces`: a client requests the list of pieces that a peer has of a task; a server
 *   responds to SyncPieces.
 */
export type OperationName =
  | "download_task"
  | "download_piece"
  | "stat_task"
  | "stat_local_task"
  | "sync_pieces";

/** Facts that are known when an operation starts. */
export interface OperationStart {
  /** Kind of operation, such as `download_piece`. */
  readonly name: OperationName;
  /** Role of this process in the operation: `client` sends the request, `server` responds to it. */
  readonly role: "client" | "server";
  /** Id of the task. */
  readonly taskId: string;
  /** Kind of the task; undefined if the RPC method does not transmit it. */
  readonly kind?: PieceKind | undefined;
  /** Number of the piece within the task; only for `download_piece`. */
  readonly number?: number | undefined;
  /** Address of the peer, `host:port`; undefined for an operation with several peers. */
  readonly addr?: string | undefined;
  /** Protocol of the request. Set only if the downloader selected it (`auto`, `hybrid`). */
  readonly protocol?: Protocol | undefined;
  /** Reason why `protocol` was selected, as one line of text. */
  readonly protocolReason?: string | undefined;
  /** HTTP headers of an incoming gRPC call. They may contain the trace context of the client. */
  readonly headers?: Headers | undefined;
}

/** Operation in progress, as created by an observer. */
export interface Operation {
  /** Called once when the operation ends, with its outcome. */
  end(result: OperationResult): void;
  /**
   * Calls `work` and returns its result. Meanwhile this operation is the active one: an operation
   * that `work` starts synchronously becomes its child.
   */
  run<T>(work: () => T): T;
  /**
   * Returns HTTP headers that make the operation of the peer a child of this one, for example
   * `traceparent` (W3C Trace Context). Only gRPC calls send them. Absent: no headers are sent.
   */
  headers?(): Readonly<Record<string, string>>;
}

/** Outcome of an operation: transferred bytes, or an error. */
export interface OperationResult {
  /** Number of transferred content bytes. May be absent for a failed operation. */
  readonly bytes?: number;
  /**
   * Error of a failed operation. An error of kind `aborted` means that the caller ended the
   * operation on purpose.
   */
  readonly error?: VortexError | undefined;
}

/**
 * Starts an operation at an observer. Exceptions of the observer are ignored, and `end` is called
 * at most once. Returns undefined if there is no observer, or if its `begin` throws.
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

/**
 * Wraps an iterable so that each of its steps runs with `operation` as the active operation, see
 * {@link Operation.run}.
 */
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
 * Calls a method of an observer. Returns undefined if the method throws, so that a faulty observer
 * cannot fail the operation.
 */
function ignoreErrors<T>(notify: () => T): T | undefined {
  try {
    return notify();
  } catch {
    return undefined;
  }
}

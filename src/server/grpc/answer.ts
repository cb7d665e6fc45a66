import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorCode, VortexError } from "../../errors.ts";
import {
  beginOperation,
  type Operation,
  type OperationStart,
  type Telemetry,
} from "../../telemetry.ts";
import type { ServerSettings } from "../admission/upload.ts";

/**
 * Telemetry of one gRPC response. Reports the end of the response exactly once, as success or as
 * failure.
 */
export class Answer {
  /** Number of content bytes in the response, which its end reports to telemetry. */
  bytes = 0;
  readonly #operation: Operation | undefined;

  constructor(telemetry: Telemetry | undefined, start: Omit<OperationStart, "role">) {
    this.#operation = beginOperation(telemetry, { ...start, role: "server" });
  }

  /** Runs `work` and reports its outcome to telemetry. Resolves or rejects as `work` does. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    try {
      const result = await work();
      this.#operation?.end({ bytes: this.bytes });
      return result;
    } catch (error) {
      this.#operation?.end({ error: failureOf(error) });
      throw error;
    }
  }

  /**
   * Yields the items of a streamed response, and reports the outcome to telemetry:
   *
   * - success after the last item
   * - the error that `items` throws
   * - `StreamReset` if the consumer stops before the last item
   */
  async *stream<T>(items: AsyncIterable<T>): AsyncGenerator<T, void, void> {
    try {
      yield* items;
      this.#operation?.end({ bytes: this.bytes });
    } catch (error) {
      this.#operation?.end({ error: failureOf(error) });
      throw error;
    } finally {
      const error = new VortexError("StreamReset", "answer incomplete: the peer ended the call");
      this.#operation?.end({ error });
    }
  }
}

/**
 * Converts an error of a request to the gRPC status for the peer. An internal error also goes to
 * `settings.onError`; the peer then receives INTERNAL without details.
 *
 * @param what noun for the error message, such as `the task`: the object that could not be read
 * @param signal signal that aborts when the peer cancels the call, or at its deadline; a
 * `ConnectError` as the reason is the status
 */
export function reportFailure(
  error: unknown,
  what: string,
  signal: AbortSignal,
  settings: ServerSettings,
): ConnectError {
  if (error instanceof ConnectError) return error;
  if (signal.aborted) {
    return signal.reason instanceof ConnectError
      ? signal.reason
      : new ConnectError("the peer cancelled the call", Code.Canceled);
  }
  // The watch of a task ends like this when the task was downloaded only in part.
  if (error instanceof VortexError && error.code === "NotFound")
    return new ConnectError(error.message, Code.NotFound);
  // Evicted, because the pending writes exceed their memory limit.
  if (error instanceof VortexError && error.kind === "timeout")
    return new ConnectError("too busy", Code.ResourceExhausted);
  settings.onError(VortexError.from(error, "StorageFailed"));
  return new ConnectError(`${what} could not be read`, Code.Internal);
}

/** Converts the error of a gRPC call to the `VortexError` that telemetry reports. */
function failureOf(error: unknown): VortexError {
  if (!(error instanceof ConnectError)) return VortexError.from(error, "Internal");
  const codes: Partial<Record<Code, ErrorCode>> = {
    [Code.NotFound]: "NotFound",
    [Code.InvalidArgument]: "InvalidArgument",
    [Code.ResourceExhausted]: "RemoteBusy",
    [Code.Canceled]: "StreamReset",
    [Code.DeadlineExceeded]: "PieceTimeout",
    [Code.Unavailable]: "Closed",
  };
  return new VortexError(codes[error.code] ?? "StorageFailed", error.rawMessage, { cause: error });
}

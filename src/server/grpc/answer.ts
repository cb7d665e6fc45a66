import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorCode, VortexError } from "../../errors.ts";
import {
  beginOperation,
  type Operation,
  type OperationStart,
  type Telemetry,
} from "../../telemetry.ts";
import type { ServerSettings } from "../admission/upload.ts";

/** Telemetry of one answer. Reports its end exactly once, whatever the outcome. */
export class Answer {
  /** Bytes of content in the answer, reported by {@link end}. */
  bytes = 0;
  readonly #operation: Operation | undefined;

  constructor(telemetry: Telemetry | undefined, start: Omit<OperationStart, "role">) {
    this.#operation = beginOperation(telemetry, { ...start, role: "server" });
  }

  /** Reports success. */
  end(): void {
    this.#operation?.end({ bytes: this.bytes });
  }

  /**
   * Runs `work`, and reports a failure if it rejects. On success the caller must call {@link end}.
   */
  async run<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.#operation?.end({ error: failureOf(error) });
      throw error;
    }
  }

  /**
   * Yields the items of a streamed answer. Reports success at their end, the error if they throw,
   * and `StreamReset` if the consumer stops early.
   */
  async *stream<T>(items: AsyncIterable<T>): AsyncGenerator<T, void, void> {
    try {
      yield* items;
      this.end();
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
 * Converts a failure to the status for the peer. An internal failure goes to `onError`, and the
 * peer receives no details of it.
 *
 * @param what object that could not be read, for the message
 * @param signal signal that aborts when the peer cancels the call
 */
export function reportFailure(
  error: unknown,
  what: string,
  signal: AbortSignal,
  settings: ServerSettings,
): ConnectError {
  if (error instanceof ConnectError) return error;
  if (signal.aborted) return new ConnectError("the peer cancelled the call", Code.Canceled);
  // The watch of a task ends like this when the task was downloaded only in part.
  if (error instanceof VortexError && error.code === "NotFound")
    return new ConnectError(error.message, Code.NotFound);
  // Evicted, because the pending writes exceed their memory limit.
  if (error instanceof VortexError && error.kind === "timeout")
    return new ConnectError("too busy", Code.ResourceExhausted);
  settings.onError(VortexError.from(error, "StorageFailed"));
  return new ConnectError(`${what} could not be read`, Code.Internal);
}

/** Converts the error of a call to the failure that telemetry reports. */
function failureOf(error: unknown): VortexError {
  if (!(error instanceof ConnectError)) return VortexError.from(error, "Internal");
  const codes: Partial<Record<Code, ErrorCode>> = {
    [Code.NotFound]: "NotFound",
    [Code.InvalidArgument]: "InvalidArgument",
    [Code.ResourceExhausted]: "RemoteBusy",
    [Code.Canceled]: "StreamReset",
  };
  return new VortexError(codes[error.code] ?? "StorageFailed", error.rawMessage, { cause: error });
}

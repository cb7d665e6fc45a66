import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorCode, VortexError } from "../../errors.ts";
import {
  beginOperation,
  type Operation,
  type OperationStart,
  type Telemetry,
} from "../../telemetry.ts";
import type { ServerSettings } from "../admission/upload.ts";

/** What telemetry is told of one answer: its end, once, however it comes. */
export class Answer {
  /** Bytes of content. */
  bytes = 0;
  readonly #operation: Operation | undefined;

  constructor(telemetry: Telemetry | undefined, start: Omit<OperationStart, "role">) {
    this.#operation = beginOperation(telemetry, { ...start, role: "server" });
  }

  end(): void {
    this.#operation?.end({ bytes: this.bytes });
  }

  async orFailed<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.#operation?.end({ error: statedFailure(error) });
      throw error;
    }
  }

  /** The items; the answer ends with them. */
  async *whole<T>(items: AsyncIterable<T>): AsyncGenerator<T, void, void> {
    try {
      yield* items;
      this.end();
    } catch (error) {
      this.#operation?.end({ error: statedFailure(error) });
      throw error;
    } finally {
      this.#operation?.end({ error: new VortexError("StreamReset", "the peer left") });
    }
  }
}

/** What the peer is told of a failure; what went wrong inside is not its to know, and reaches `onError`. */
export function reportFailure(
  error: unknown,
  what: string,
  signal: AbortSignal,
  settings: ServerSettings,
): ConnectError {
  if (error instanceof ConnectError) return error;
  if (signal.aborted) return new ConnectError("the peer gave the call up", Code.Canceled);
  // As the watch of a task of which only a part was wanted ends.
  if (error instanceof VortexError && error.code === "NotFound")
    return new ConnectError(error.message, Code.NotFound);
  // More waits to be sent than there is memory for.
  if (error instanceof VortexError && error.kind === "timeout")
    return new ConnectError("too busy", Code.ResourceExhausted);
  settings.onError(VortexError.from(error, "StorageFailed"));
  return new ConnectError(`${what} could not be read`, Code.Internal);
}

/** The failure that a status stands for. */
function statedFailure(error: unknown): VortexError {
  if (!(error instanceof ConnectError)) return VortexError.from(error, "Internal");
  const codes: Partial<Record<Code, ErrorCode>> = {
    [Code.NotFound]: "NotFound",
    [Code.InvalidArgument]: "InvalidArgument",
    [Code.ResourceExhausted]: "RemoteBusy",
    [Code.Canceled]: "StreamReset",
  };
  return new VortexError(codes[error.code] ?? "StorageFailed", error.rawMessage, { cause: error });
}

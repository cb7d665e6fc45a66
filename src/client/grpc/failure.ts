import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorCode, remoteText, VortexError } from "../../errors.ts";
import { originFailure } from "./status-details.ts";

/**
 * Converts an error of the Connect library to a `VortexError`.
 *
 * @param open true if the connection still accepts calls
 * @param unserved error message for an RPC method that the peer does not serve; the message of the
 * peer is appended
 */
export function callFailure(
  error: unknown,
  addr: string,
  open: boolean,
  unserved: string,
): VortexError {
  const failure = ConnectError.from(error, Code.Internal);
  const detail = remoteText(failure.rawMessage) || "without a message";
  const make = (code: ErrorCode, message: string): VortexError =>
    new VortexError(code, code === "RemoteUnimplemented" ? `${unserved}: ${detail}` : message, {
      cause: error,
      addr,
    });
  if (failure.metadata.has("grpc-status")) {
    // Message of Connect for a gRPC status that is unknown or not a number.
    if (detail.startsWith("invalid grpc-status"))
      return make("RemoteUnknown", `answer of the peer: ${detail}`);
    const origin = failure.code === Code.Internal ? originFailure(failure.metadata) : undefined;
    if (origin !== undefined) {
      const status = origin.status === undefined ? "an error" : `status ${origin.status}`;
      const message = `origin of the task: the peer got ${status}: ${origin.message || detail}`;
      return new VortexError("OriginFailed", message, { cause: error, addr, origin });
    }
    return make(
      statusCodes[failure.code] ?? "RemoteUnknown",
      `the peer answered ${Code[failure.code]}: ${detail}`,
    );
  }
  if (!open) return make("ConnectionLost", `the connection was lost: ${detail}`);
  if (detail.includes("larger than configured readMaxBytes")) return make("LimitExceeded", detail);
  if (detail.includes("incomplete envelope") || detail.includes("missing output message")) {
    return make(
      "TruncatedContent",
      "answer: expected a complete message, got the end of the stream",
    );
  }
  if (detail.includes("extra output message"))
    return make("ProtocolViolation", "answer: expected one message, got several");
  // RST_STREAM of an overloaded peer. All runtimes name the error code (RFC 9113, section 7).
  if (/REFUSED_STREAM|ENHANCE_YOUR_CALM/.test(detail))
    return make("RemoteBusy", `the call failed: ${detail}`);
  // An error of the HTTP/2 implementation has a cause with a code. RST_STREAM has this message.
  const { cause } = failure;
  const reset =
    (cause instanceof Error && "code" in cause) || detail.startsWith("http/2 stream closed");
  const code = localCodes[failure.code] ?? (reset ? "StreamReset" : "ProtocolViolation");
  return make(code, `the call failed: ${detail}`);
}

/** Error codes for the gRPC status codes of a peer. Any other status becomes `RemoteUnknown`. */
const statusCodes: Partial<Record<Code, ErrorCode>> = {
  [Code.NotFound]: "NotFound",
  [Code.InvalidArgument]: "RemoteInvalidArgument",
  [Code.OutOfRange]: "RemoteInvalidArgument",
  [Code.Unimplemented]: "RemoteUnimplemented",
  [Code.Unavailable]: "RemoteBusy",
  [Code.ResourceExhausted]: "RemoteBusy",
  [Code.Internal]: "RemoteInternal",
  [Code.DataLoss]: "RemoteInternal",
  [Code.DeadlineExceeded]: "PieceTimeout",
  [Code.Canceled]: "StreamReset",
};

/**
 * Error codes for failures that the Connect library detects on an open connection, without a gRPC
 * status from the peer.
 */
const localCodes: Partial<Record<Code, ErrorCode>> = {
  // RST_STREAM with CANCEL (RFC 9113, section 7).
  [Code.Canceled]: "StreamReset",
  [Code.Aborted]: "StreamReset",
  // HTTP statuses such as 503.
  [Code.Unavailable]: "RemoteBusy",
  [Code.ResourceExhausted]: "RemoteBusy",
  // HTTP 404.
  [Code.Unimplemented]: "RemoteUnimplemented",
};

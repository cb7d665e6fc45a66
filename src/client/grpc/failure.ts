import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorCode, remoteText, VortexError } from "../../errors.ts";

/**
 * The one place where errors of Connect become ours.
 *
 * @param open whether the connection takes calls still
 * @param unserved what is said when the peer does not serve the call
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
    new VortexError(code, code === "RemoteUnimplemented" ? `${unserved} (${detail})` : message, {
      cause: error,
      addr,
    });
  if (failure.metadata.has("grpc-status") || failure.metadata.has("grpc-status-details-bin")) {
    // What Connect says of a status that is no number, or of no meaning.
    if (detail.startsWith("invalid grpc-status"))
      return make("RemoteUnknown", `the peer answered with an ${detail}`);
    return make(
      statusCodes[failure.code] ?? "RemoteUnknown",
      `the peer answered ${Code[failure.code]}: ${detail}`,
    );
  }
  if (!open) return make("ConnectionLost", `the connection was lost: ${detail}`);
  if (detail.includes("larger than configured readMaxBytes")) return make("LimitExceeded", detail);
  if (detail.includes("incomplete envelope") || detail.includes("missing output message")) {
    return make("TruncatedContent", "the answer ended before the piece was complete");
  }
  if (detail.includes("extra output message"))
    return make("ProtocolViolation", "more than one answer came");
  // The peer's RST_STREAM for want of capacity (RFC 9113, section 7), in the words of each runtime.
  if (/REFUSED_STREAM|ENHANCE_YOUR_CALM/.test(detail))
    return make("RemoteBusy", `the call failed: ${detail}`);
  // Errors of the HTTP/2 implementation come as causes and have a code, the peer's RST_STREAM comes with these words.
  const { cause } = failure;
  const reset =
    (cause instanceof Error && "code" in cause) || detail.startsWith("http/2 stream closed");
  const code = localCodes[failure.code] ?? (reset ? "StreamReset" : "ProtocolViolation");
  return make(code, `the call failed: ${detail}`);
}

/** What a status that the peer sent becomes; those that say nothing of use are `RemoteUnknown`. */
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

/** What Connect finds wrong by itself, on a connection that is still open. */
const localCodes: Partial<Record<Code, ErrorCode>> = {
  // RST_STREAM with CANCEL (RFC 9113, section 7), and statuses of HTTP such as 503.
  [Code.Canceled]: "StreamReset",
  [Code.Aborted]: "StreamReset",
  [Code.Unavailable]: "RemoteBusy",
  [Code.ResourceExhausted]: "RemoteBusy",
  // HTTP 404.
  [Code.Unimplemented]: "RemoteUnimplemented",
};

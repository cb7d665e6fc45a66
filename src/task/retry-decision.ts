import type { ErrorCode, VortexError } from "../errors.ts";

/**
 * Consequence of a failed piece request for the parent, or for the whole task.
 *
 * - `retry`: possibly temporary; the parent is retried after a pause
 * - `missing`: the parent does not have this piece now; it is still asked for others
 * - `leave-out`: a retry would get the same answer; the parent is left out, and retried every 30 s
 * - `ban`: the parent sent wrong data, or a retry would do harm; it is never asked again
 * - `fatal`: no parent can help; the download fails
 */
export type RetryDecision = "retry" | "missing" | "leave-out" | "ban" | "fatal";

/** Decisions for codes that differ from the decision for their kind. */
const byCode: Partial<Record<ErrorCode, RetryDecision>> = {
  NotFound: "missing",
  // A killed peer process looks like this; it sent nothing wrong.
  TruncatedContent: "retry",
  // A retry fails in the same way, unless the peer was upgraded meanwhile.
  RemoteInvalidArgument: "leave-out",
  RemoteUnimplemented: "leave-out",
  // A failed handshake terminates the whole dfdaemon (1.1.0 to 1.4.8), so it is not repeated.
  ProtocolNotSupported: "ban",
  HandshakeFailed: "ban",
  // The runtime lacks the protocol; another route may use a different one.
  Unavailable: "ban",
  // The runtime's permissions may allow other addresses.
  PermissionDenied: "ban",
  // The parent may have caused these, for example by announcing an invalid address or by triggering
  // a bug in this library. Otherwise all parents fail alike, and the task fails with this code.
  InvalidArgument: "leave-out",
  Internal: "leave-out",
};

/** Decisions for all other codes, by their kind. */
const byKind: Record<VortexError["kind"], RetryDecision> = {
  misuse: "fatal",
  peer: "ban",
  remote: "retry",
  transport: "retry",
  timeout: "retry",
  aborted: "fatal",
  local: "fatal",
};

/** Returns the consequence of an error that a piece request failed with. */
export function retryDecision(error: VortexError): RetryDecision {
  return byCode[error.code] ?? byKind[error.kind];
}

import type { ErrorCode, VortexError } from "../errors.ts";

/**
 * Consequence of a failed piece request for the parent, or for the whole download:
 *
 * - `retry`: The error may be temporary. The parent is retried after a backoff.
 * - `missing`: The parent does not have this piece now. Other pieces are still requested from it.
 * - `exclude`: A retry would have the same result. The parent is only retried every 30 s.
 * - `ban`: The parent sent wrong data, or a retry would do harm. Nothing is requested from it
 *   again.
 * - `fatal`: The error does not depend on the parent. The download fails.
 */
export type RetryDecision = "retry" | "missing" | "exclude" | "ban" | "fatal";

/** Decisions for single error codes. They take precedence over the decisions in `byKind`. */
const byCode: Partial<Record<ErrorCode, RetryDecision>> = {
  NotFound: "missing",
  // A killed peer process causes this error without sending wrong data.
  TruncatedContent: "retry",
  // A retry fails in the same way, unless the peer was upgraded meanwhile.
  RemoteInvalidArgument: "exclude",
  RemoteUnimplemented: "exclude",
  // The parent does not have the task, and its origin does not give it.
  OriginFailed: "exclude",
  // A failed handshake terminates the whole dfdaemon (1.1.0 to 1.4.8), so it is not repeated.
  ProtocolNotSupported: "ban",
  HandshakeFailed: "ban",
  // The runtime lacks the protocol; another route may use a different one.
  Unavailable: "ban",
  // The runtime's permissions may allow other addresses.
  PermissionDenied: "ban",
  // The parent may have caused these, for example by announcing an invalid address or by triggering
  // a bug in this library. Otherwise all parents fail alike, and the task fails with this code.
  InvalidArgument: "exclude",
  Internal: "exclude",
};

/** Decisions by error kind, for all codes that are not in `byCode`. */
const byKind: Record<VortexError["kind"], RetryDecision> = {
  misuse: "fatal",
  peer: "ban",
  remote: "retry",
  transport: "retry",
  timeout: "retry",
  aborted: "fatal",
  local: "fatal",
};

/** Returns the consequence of the error of a piece request. */
export function retryDecision(error: VortexError): RetryDecision {
  return byCode[error.code] ?? byKind[error.kind];
}

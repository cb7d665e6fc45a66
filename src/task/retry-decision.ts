import type { ErrorCode, VortexError } from "../errors.ts";

/**
 * What a failure says about the parent that a piece was asked from.
 *
 * | verdict | meaning |
 * | --- | --- |
 * | `again` | may pass: asked again after a pause |
 * | `absent` | does not have this piece, as of now |
 * | `later` | would answer the same: left out, and asked again every 30 s |
 * | `out` | delivered what is wrong, or must not be asked again: banned |
 * | `fatal` | no parent can help: the task fails |
 */
export type RetryDecision = "retry" | "missing" | "leave-out" | "ban" | "fatal";

/** Codes whose verdict is not that of their kind. */
const byCode: Partial<Record<ErrorCode, RetryDecision>> = {
  NotFound: "missing",
  // The end of a process that was killed looks like this; nothing wrong was delivered.
  TruncatedContent: "retry",
  // The next try has the same end, unless the peer is another version by then.
  RemoteInvalidArgument: "leave-out",
  RemoteUnimplemented: "leave-out",
  // A failed handshake ends a whole stock daemon (dfdaemon 1.1.0 to 1.4.8): no second one.
  ProtocolNotSupported: "ban",
  HandshakeFailed: "ban",
  // The runtime lacks the protocol; another route may take another one.
  Unavailable: "ban",
  // Permissions may allow one address and not another.
  PermissionDenied: "ban",
  // What one parent announced or answered may have brought it about: an address that is none, or a fault of this library. Where it
  // has not, all parents end so, and the task with that code.
  InvalidArgument: "leave-out",
  Internal: "leave-out",
};

const byKind: Record<VortexError["kind"], RetryDecision> = {
  misuse: "fatal",
  peer: "ban",
  remote: "retry",
  transport: "retry",
  timeout: "retry",
  aborted: "fatal",
  local: "fatal",
};

/** The verdict on a failure to fetch a piece. */
export function retryDecision(error: VortexError): RetryDecision {
  return byCode[error.code] ?? byKind[error.kind];
}

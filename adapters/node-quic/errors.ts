import type { CloseInfo } from "../../src/transport/transport.ts";
import { closeInfo, silentEnd } from "../shared/quic-errors.ts";
import { isNativeError } from "./native.ts";

/** QUIC transport error code INTERNAL_ERROR (RFC 9000, section 20.1). */
const INTERNAL_ERROR = 1n;
/**
 * QUIC error code for the TLS alert handshake_failure (RFC 9001, section 4.8). The `node:quic`
 * module also uses it for a handshake timeout.
 */
const HANDSHAKE_FAILURE = 0x128n;

/** State of a connection at the time it ended. */
export interface SessionState {
  /** True if the handshake was complete. */
  readonly established: boolean;
  /**
   * True if the application has used the connection, possibly before the handshake was complete.
   */
  readonly used: boolean;
  readonly server: boolean;
  /** True if nothing was received from the peer for about the idle timeout. */
  readonly silent: boolean;
}

/**
 * Creates the {@link CloseInfo} of an ended connection.
 *
 * @param cause error with which `NativeSession.closed` rejected. Undefined if that promise
 * resolved: the peer closed the connection without an error, or the idle timeout passed.
 */
export function closeInfoOf(
  cause: unknown,
  { established, used, server, silent }: SessionState,
): CloseInfo {
  if (cause === undefined) {
    if (silent) return silentEnd(true, established, server);
    return closeInfo({
      isApp: true,
      code: 0,
      reason: "",
      remote: true,
      established: established || used,
    });
  }
  if (!isNativeError(cause)) return silentEnd(false, established, server, cause);
  const { type, errorCode, reason = "" } = cause;
  const isApp = type === "application";
  if (!isApp && errorCode === HANDSHAKE_FAILURE && reason === "handshake timed out") {
    return silentEnd(true, established, server, cause);
  }
  // All local failures have this code: a stateless reset, a bad certificate, a protocol violation.
  const local = !isApp && errorCode === INTERNAL_ERROR;
  if (local && established) return silentEnd(false, established, server, cause);
  // An application close is sent only after the handshake (RFC 9000, section 10.2.3), even if this
  // side has not seen its end yet.
  return closeInfo({
    isApp,
    code: Number(errorCode),
    reason,
    remote: !local,
    established: established || isApp,
    cause,
  });
}

import type { CloseInfo } from "../../src/transport/transport.ts";
import { closeInfo, silentEnd } from "../shared/quic-errors.ts";
import { isNativeError } from "./native.ts";

/** Transport error INTERNAL_ERROR (RFC 9000, section 20.1). */
const INTERNAL_ERROR = 1n;
/**
 * TLS alert handshake_failure (RFC 8446, section 6.2), which the runtime also uses for a timeout.
 */
const HANDSHAKE_FAILURE = 0x128n;

/** State of a connection at its end. */
export interface SessionState {
  /** True if the handshake was complete. */
  readonly established: boolean;
  /** True if the application used the connection, possibly before the end of the handshake. */
  readonly used: boolean;
  readonly server: boolean;
  /** True if nothing was received for the length of the idle timeout. */
  readonly silent: boolean;
}

/**
 * Builds the {@link CloseInfo} of an ended session.
 *
 * @param cause rejection of the session's `closed`. Undefined when `closed` resolved, which means a
 * close without an error by the peer, or the idle timeout.
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

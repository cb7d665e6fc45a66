import type { CloseInfo } from "../../src/transport/transport.ts";
import { closeInfo, silentEnd } from "../shared/quic-errors.ts";
import { isNativeError } from "./native.ts";

/** RFC 9000, section 20.1. */
const INTERNAL_ERROR = 1n;
/** The alert handshake_failure (RFC 8446, section 6.2), which the runtime uses for handshakes that took too long. */
const HANDSHAKE_FAILURE = 0x128n;

/** What else is known of a connection that has ended. */
export interface Circumstances {
  readonly established: boolean;
  /** Whether it was in use, which it may be ahead of its handshake. */
  readonly used: boolean;
  readonly server: boolean;
  /** Whether nothing had come for as long as the idle timeout. */
  readonly silent: boolean;
}

/**
 * Why the runtime says that a connection has ended: `cause` is what `closed` rejected with. It resolves (`cause` is undefined)
 * both when the peer closed without an error and after the idle timeout.
 */
export function sessionEnd(
  cause: unknown,
  { established, used, server, silent }: Circumstances,
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
  // What failed on this side has this one code: a stateless reset, a certificate, a packet that breaks the protocol.
  const local = !isApp && errorCode === INTERNAL_ERROR;
  if (local && established) return silentEnd(false, established, server, cause);
  // An application's code comes only after the handshake (RFC 9000, section 10.2.3), though this side may not know yet.
  return closeInfo({
    isApp,
    code: Number(errorCode),
    reason,
    remote: !local,
    established: established || isApp,
    cause,
  });
}

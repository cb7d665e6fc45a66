import { VortexError } from "../../src/errors.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import { closeInfo, silentEnd } from "../shared/quic-errors.ts";
import type { NativeConnection } from "./native.ts";

/**
 * Builds the {@link CloseInfo} of a connection that quiche has closed, from its error or timeout.
 */
export function connectionError(
  native: NativeConnection,
  established: boolean,
  server: boolean,
): CloseInfo {
  const peer = native.peerError();
  const found = peer ?? native.localError();
  if (found === null) return silentEnd(native.isTimedOut(), established, server);
  const { isApp, errorCode: code } = found;
  const reason = new TextDecoder().decode(found.reason);
  return closeInfo({ isApp, code, reason, remote: peer !== null, established });
}

/**
 * Converts an exception of a stream call into a `VortexError`. quiche's binding distinguishes its
 * errors by message only: `StreamReset(code)`, `StreamStopped(code)`, `InvalidStreamState(id)`.
 *
 * @param peerAction action of the peer that a `StreamReset` is reported as
 * @param ended error of the connection, if it has ended; takes precedence
 */
export function streamError(
  cause: unknown,
  peerAction: string,
  ended: VortexError | undefined,
): VortexError {
  if (ended !== undefined) return ended;
  const text = cause instanceof Error ? cause.message : String(cause);
  const code = /^Stream(?:Reset|Stopped)\((\d+)\)$/.exec(text)?.[1];
  if (code !== undefined)
    return new VortexError("StreamReset", `stream reset: ${peerAction} (code ${code})`, { cause });
  // After a reset or STOP_SENDING, quiche frees the stream with its code once all sent data is
  // acknowledged.
  if (text.startsWith("InvalidStreamState"))
    return new VortexError("StreamReset", `stream reset: ${peerAction}`, { cause });
  return new VortexError("ConnectionLost", `stream failed: ${text}`, { cause });
}

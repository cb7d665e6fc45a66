import { VortexError } from "../../src/errors.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import { closeInfo, silentEnd } from "../shared/quic-errors.ts";
import type { NativeConnection } from "./native.ts";

/**
 * Creates the {@link CloseInfo} of a connection that quiche has closed. The cause is a
 * CONNECTION_CLOSE frame from the peer, an error on this side or a timeout.
 *
 * @param established true if the handshake was complete
 * @param server true on the server side
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
 * @param peerAction description of what the peer did, for the message of a `StreamReset` error
 * @param ended error with which the connection ended; undefined while it is open. If defined, this
 * error is returned.
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

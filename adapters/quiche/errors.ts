import { VortexError } from "../../src/errors.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import { closeInfo, silentEnd } from "../shared/quic-errors.ts";
import type { NativeConnection } from "./native.ts";

/** Why quiche closed a connection, as this library says it. */
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
 * What went wrong with a stream. quiche's binding tells its errors by their text: `StreamReset(code)`, `StreamStopped(code)`,
 * `InvalidStreamState(id)`.
 */
export function streamError(
  cause: unknown,
  what: string,
  ended: VortexError | undefined,
): VortexError {
  if (ended !== undefined) return ended;
  const text = cause instanceof Error ? cause.message : String(cause);
  const code = /^Stream(?:Reset|Stopped)\((\d+)\)$/.exec(text)?.[1];
  if (code !== undefined)
    return new VortexError("StreamReset", `${what} (code ${code})`, { cause });
  // A stream that the other side gave up is forgotten once all that was sent on it is acknowledged, its code with it.
  if (text.startsWith("InvalidStreamState")) return new VortexError("StreamReset", what, { cause });
  return new VortexError("ConnectionLost", `the stream failed: ${text}`, { cause });
}

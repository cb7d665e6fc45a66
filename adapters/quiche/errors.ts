import { type ErrorCode, VortexError } from "../../src/errors.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import type { NativeConnection } from "./native.ts";

/** QUIC transport errors (RFC 9000, section 20.1). */
const transportErrors: Record<number, string> = {
  0: "no error",
  1: "internal error",
  2: "connection refused",
  3: "flow control error",
  4: "stream limit error",
  5: "stream state error",
  6: "final size error",
  7: "frame encoding error",
  8: "transport parameter error",
  10: "protocol violation",
  11: "invalid token",
  12: "application error",
};

/** TLS alerts (RFC 8446, section 6), which QUIC carries as 0x100 + alert. */
const alerts: Record<number, string> = {
  296: "no common TLS parameters",
  298: "the certificate was not accepted",
  299: "the certificate is of an unsupported kind",
  300: "the certificate was revoked",
  301: "the certificate has expired or is not valid yet",
  302: "the certificate was not accepted",
  304: "the certificate comes from an unknown authority",
  307: "a signature of the handshake is wrong",
  326: "no common TLS version",
  372: "a client certificate is required",
  376: "no common application protocol",
};

/** RFC 9000, section 20.1. */
export const CONNECTION_REFUSED = 0x2;
const BAD_CERTIFICATE = 0x12a;
const NO_APPLICATION_PROTOCOL = 0x178;

/** What a peer is told when its connection is turned away for `error` at the end of the handshake. */
export function refusalCode(error: VortexError): number {
  return error.code === "HandshakeFailed" ? BAD_CERTIFICATE : CONNECTION_REFUSED;
}

/** Why quiche closed a connection, as this library says it. */
export function connectionError(native: NativeConnection, established: boolean, server: boolean): CloseInfo {
  const peer = native.peerError();
  const local = native.localError();
  const found = peer ?? local;
  if (found === null) {
    const message = native.isTimedOut() ? "the peer has fallen silent" : "the connection was lost";
    const code: ErrorCode = established ? "ConnectionLost" : server ? "HandshakeFailed" : "ConnectTimeout";
    return { code: 0, reason: "", remote: false, error: new VortexError(code, message) };
  }
  const { isApp, errorCode } = found;
  const reason = new TextDecoder().decode(found.reason).slice(0, 256);
  const remote = peer !== null;
  const error = new VortexError(
    codeOf(isApp, errorCode, established, remote),
    messageOf(isApp, errorCode, reason, remote),
    {
      cause: { isApp, errorCode, reason },
    },
  );
  return { code: errorCode, reason, remote, error };
}

/**
 * What went wrong with a stream. quiche's binding tells its errors by their text: `StreamReset(code)`, `StreamStopped(code)`,
 * `InvalidStreamState(id)`.
 */
export function streamError(cause: unknown, what: string, ended: VortexError | undefined): VortexError {
  if (ended !== undefined) return ended;
  const text = cause instanceof Error ? cause.message : String(cause);
  const code = /^Stream(?:Reset|Stopped)\((\d+)\)$/.exec(text)?.[1];
  if (code !== undefined) return new VortexError("StreamReset", `${what} (code ${code})`, { cause });
  return new VortexError("ConnectionLost", `the stream failed: ${text}`, { cause });
}

function codeOf(application: boolean, code: number, established: boolean, remote: boolean): ErrorCode {
  if (application) return established ? "ConnectionLost" : "ConnectionRefused";
  if (code === NO_APPLICATION_PROTOCOL) return "ProtocolNotSupported";
  // A server may find out that it has no room only when the client's handshake is over.
  if (code === CONNECTION_REFUSED && remote) return "ConnectionRefused";
  if (code >= 0x100 && code <= 0x1ff) return "HandshakeFailed";
  if (established) return "ConnectionLost";
  return remote ? "ConnectionRefused" : "HandshakeFailed";
}

function messageOf(application: boolean, code: number, reason: string, remote: boolean): string {
  const who = remote ? "the peer" : "this side";
  const hex = `0x${code.toString(16)}`;
  const text = reason === "" ? "" : `: ${reason}`;
  if (application) return `${who} closed the connection (code ${code})${text}`;
  if (code === NO_APPLICATION_PROTOCOL) {
    return (
      `${who} does not speak the application protocol "vortex" over QUIC (${hex}); ` +
      'stock Dragonfly peers do not: reach them with protocol "tcp"'
    );
  }
  const name = alerts[code] ?? transportErrors[code] ?? "TLS alert";
  return `${who} ended the handshake or connection: ${name} (${hex})${text}`;
}

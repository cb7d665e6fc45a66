/** Converts QUIC error codes to errors. The messages are the same for every QUIC implementation. */
import { type ErrorCode, remoteText, VortexError } from "../../src/errors.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import { alertMessage, BAD_CERTIFICATE } from "./tls-errors.ts";

/** Names of QUIC transport error codes (RFC 9000, section 20.1), for error messages. */
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

/** QUIC transport error code CONNECTION_REFUSED (RFC 9000, section 20.1). */
export const CONNECTION_REFUSED = 0x2;
/** QUIC error code for the TLS alert no_application_protocol (RFC 9001, section 4.8). */
const NO_APPLICATION_PROTOCOL = 0x178;

/**
 * Content of a CONNECTION_CLOSE frame (RFC 9000, section 19.19), with its sender and the state of
 * the handshake.
 */
export interface ConnectionClose {
  /**
   * True if the frame has an application error code. False if it has a QUIC transport or TLS error
   * code.
   */
  readonly isApp: boolean;
  readonly code: number;
  readonly reason: string;
  /** True if the peer sent the frame, false if this side sent it. */
  readonly remote: boolean;
  /** True if the handshake was complete before the connection was closed. */
  readonly established: boolean;
  /** Error of the QUIC implementation, if any. */
  readonly cause?: unknown;
}

/**
 * Returns the {@link CloseInfo} of a connection that ended with a CONNECTION_CLOSE frame, sent by
 * the peer or by this side.
 */
export function closeInfo(close: ConnectionClose): CloseInfo {
  const { code, remote } = close;
  const reason = remoteText(close.reason, 256);
  const cause = close.cause ?? { isApp: close.isApp, errorCode: code, reason };
  return {
    code,
    reason,
    remote,
    error: new VortexError(codeOf(close), messageOf(close, reason), { cause }),
  };
}

/**
 * Returns the {@link CloseInfo} of a connection that ended without a CONNECTION_CLOSE frame. After
 * the handshake, its error code is `ConnectionLost`. Before the end of the handshake, it is
 * `ConnectTimeout` on a client and `HandshakeFailed` on a server.
 * @param timedOut true if the idle timeout ended the connection
 * @param established true if the handshake was complete
 * @param server true if this side is the server
 */
export function silentEnd(
  timedOut: boolean,
  established: boolean,
  server: boolean,
  cause?: unknown,
): CloseInfo {
  const message = timedOut
    ? "idle timeout: nothing received from the peer"
    : "connection lost: no close received from the peer";
  const code: ErrorCode = established
    ? "ConnectionLost"
    : server
      ? "HandshakeFailed"
      : "ConnectTimeout";
  return { code: 0, reason: "", remote: false, error: new VortexError(code, message, { cause }) };
}

/**
 * Returns the error code for the CONNECTION_CLOSE frame with which this side rejects a connection
 * whose QUIC handshake is complete. If `error` is `HandshakeFailed`, for example because of a
 * certificate, this is CRYPTO_ERROR: 0x100 plus the TLS alert. Otherwise it is CONNECTION_REFUSED.
 */
export function refusalCode(error: VortexError): number {
  if (error.code !== "HandshakeFailed") return CONNECTION_REFUSED;
  // `refusedClient` sets this cause.
  const alert = (error.cause as { readonly alert?: unknown } | undefined)?.alert;
  return 0x100 + (typeof alert === "number" ? alert : BAD_CERTIFICATE);
}

/**
 * Returns the number of the TLS alert that a QUIC error code contains (RFC 9001, section 4.8).
 * Returns undefined for other error codes.
 */
export function alertOf(code: number): number | undefined {
  return code >= 0x100 && code <= 0x1ff ? code - 0x100 : undefined;
}

function codeOf({ isApp, code, established, remote }: ConnectionClose): ErrorCode {
  if (isApp) return established ? "ConnectionLost" : "ConnectionRefused";
  if (code === NO_APPLICATION_PROTOCOL) return "ProtocolNotSupported";
  // A server may detect that it has no free slot only after the client's handshake.
  if (code === CONNECTION_REFUSED && remote) return "ConnectionRefused";
  if (alertOf(code) !== undefined) return "HandshakeFailed";
  if (established) return "ConnectionLost";
  return remote ? "ConnectionRefused" : "HandshakeFailed";
}

function messageOf({ isApp, code, remote }: ConnectionClose, reason: string): string {
  const who = remote ? "the peer" : "this side";
  const hex = `0x${code.toString(16)}`;
  const text = reason === "" ? "" : `: ${reason}`;
  if (isApp) return `${who} closed the connection (code ${code})${text}`;
  if (code === NO_APPLICATION_PROTOCOL) {
    return (
      `no common application protocol: ${who} does not speak "vortex" over QUIC (${hex}); ` +
      'use protocol "tcp" for dfdaemon'
    );
  }
  const alert = alertOf(code);
  if (alert !== undefined) return `${alertMessage(alert, remote)} (${hex})${text}`;
  return `${who} ended the handshake or connection: ${transportErrors[code] ?? "transport error"} (${hex})${text}`;
}

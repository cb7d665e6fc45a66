/** What the error codes of QUIC mean, in the terms of this library; the same words over every implementation of QUIC. */
import { type ErrorCode, remoteText, VortexError } from "../../src/errors.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import { alertMessage, BAD_CERTIFICATE } from "./tls-errors.ts";

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

/** RFC 9000, section 20.1. */
export const CONNECTION_REFUSED = 0x2;
const NO_APPLICATION_PROTOCOL = 0x178;

/** What a CONNECTION_CLOSE frame said (RFC 9000, section 19.19), and when. */
export interface ConnectionClose {
  /** Whether the code is the application's; else it is one of the transport or of TLS. */
  readonly isApp: boolean;
  readonly code: number;
  readonly reason: string;
  /** Whether the other side sent it. */
  readonly remote: boolean;
  /** Whether the handshake was over by then. */
  readonly established: boolean;
  /** The native error, if there is one. */
  readonly cause?: unknown;
}

/** A connection that was closed by either side, as this library says it. */
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

/** A connection that ended without a word from either side. */
export function silentEnd(
  timedOut: boolean,
  established: boolean,
  server: boolean,
  cause?: unknown,
): CloseInfo {
  const message = timedOut ? "the peer has fallen silent" : "the connection was lost";
  const code: ErrorCode = established
    ? "ConnectionLost"
    : server
      ? "HandshakeFailed"
      : "ConnectTimeout";
  return { code: 0, reason: "", remote: false, error: new VortexError(code, message, { cause }) };
}

/** What a peer is told when its connection is turned away for `error` at the end of the handshake. */
export function refusalCode(error: VortexError): number {
  if (error.code !== "HandshakeFailed") return CONNECTION_REFUSED;
  // As `refusedClient` names it.
  const alert = (error.cause as { readonly alert?: unknown } | undefined)?.alert;
  return 0x100 + (typeof alert === "number" ? alert : BAD_CERTIFICATE);
}

/** The TLS alert that a code stands for, if it does (RFC 9001, section 4.8). */
export function alertOf(code: number): number | undefined {
  return code >= 0x100 && code <= 0x1ff ? code - 0x100 : undefined;
}

function codeOf({ isApp, code, established, remote }: ConnectionClose): ErrorCode {
  if (isApp) return established ? "ConnectionLost" : "ConnectionRefused";
  if (code === NO_APPLICATION_PROTOCOL) return "ProtocolNotSupported";
  // A server may find out that it has no room only when the client's handshake is over.
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
      `${who} does not speak the application protocol "vortex" over QUIC (${hex}); ` +
      'stock Dragonfly peers do not: reach them with protocol "tcp"'
    );
  }
  const alert = alertOf(code);
  if (alert !== undefined) return `${alertMessage(alert, remote)} (${hex})${text}`;
  return `${who} ended the handshake or connection: ${transportErrors[code] ?? "transport error"} (${hex})${text}`;
}

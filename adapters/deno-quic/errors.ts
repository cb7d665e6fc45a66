/**
 * Converts the errors of Deno's QUIC, whose messages are texts of quinn and rustls. No other file
 * of this library depends on these texts.
 */
import { remoteText, VortexError } from "../../src/errors.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import { CONNECTION_REFUSED, closeInfo, silentEnd } from "../shared/quic-errors.ts";
import { isAboutCertificate, otherNames, unknownAuthority } from "../shared/tls-errors.ts";

/** QUIC transport error code APPLICATION_ERROR (RFC 9000, section 20.1). */
const APPLICATION_ERROR = 0xc;

/**
 * QUIC transport error codes (RFC 9000, section 20.1), each with the start of quinn's text for it.
 */
const transportErrors: readonly [text: string, code: number][] = [
  ["the connection is being closed abruptly in the absence of any error", 0x0],
  ["the endpoint encountered an internal error", 0x1],
  ["the server refused to accept a new connection", CONNECTION_REFUSED],
  ["received more data than permitted", 0x3],
  ["received a frame for a stream identifier that exceeded", 0x4],
  ["received a frame for a stream that was not in a state", 0x5],
  ["received a STREAM frame containing data that exceeded", 0x6],
  ["received a frame that was badly formatted", 0x7],
  ["received transport parameters that were badly formatted", 0x8],
  ["detected an error with protocol compliance", 0xa],
  ["the server received a client Initial that contained an invalid Token", 0xb],
  ["the application or application protocol caused", APPLICATION_ERROR],
];

/** State of a connection at the time it failed. */
export interface ConnectionState {
  /** True if the handshake was complete. */
  readonly established: boolean;
  readonly server: boolean;
  /**
   * True if the connection was dialled with early data (0-RTT). Then the application may have used
   * it before the handshake was complete.
   */
  readonly early?: boolean;
  /** Requirements for the server's certificate; undefined on a server. */
  readonly trust?: Trust | undefined;
}

/** Requirements of a client for the server's certificate. */
export interface Trust {
  readonly tls: TlsClientOptions;
  /** Server name for which the certificate must be valid. */
  readonly name: string;
}

/**
 * Creates the {@link CloseInfo} of a connection that failed.
 *
 * @param cause error of Deno's QUIC with a text of quinn
 */
export function closeInfoOf(
  cause: unknown,
  { established, server, early, trust }: ConnectionState,
): CloseInfo {
  const text = textOf(cause);
  if (text === "timed out") return silentEnd(true, established, server, cause);
  const application = /^closed by peer: (?:(.*) \(code (\d+)\)|(\d+))$/s.exec(text);
  if (application !== null) {
    const [, reason = "", code, bare] = application;
    return closeInfo({
      isApp: true,
      code: Number(code ?? bare),
      reason,
      remote: true,
      established,
      cause,
    });
  }
  const [, by, what = ""] = /^(aborted by peer: )?(.*)$/s.exec(text) ?? [];
  const remote = by !== undefined;
  const crypto = /^the cryptographic handshake failed: error (\d+)(?: in [^:]*)?(?:: (.*))?$/s.exec(
    what,
  );
  if (crypto !== null) {
    const [, number, reason = ""] = crypto;
    const alert = Number(number);
    if (
      !remote &&
      trust !== undefined &&
      (isAboutCertificate(alert) || reason.startsWith(INVALID_CERTIFICATE))
    ) {
      const error = refusedCertificate(reason, trust, cause);
      return { code: 0x100 + alert, reason, remote, error };
    }
    return closeInfo({ isApp: false, code: 0x100 + alert, reason, remote, established, cause });
  }
  const [known, code] = transportErrors.find(([start]) => what.startsWith(start)) ?? [];
  if (known !== undefined && code !== undefined) {
    if (code === APPLICATION_ERROR && !established) {
      // The application's code and reason are withheld until the handshake is complete (RFC 9000,
      // section 10.2.3).
      const message = "connection closed: the peer ended it before the handshake was complete";
      const error = new VortexError(
        early === true ? "ConnectionLost" : "ConnectionRefused",
        message,
        { cause },
      );
      return { code, reason: "", remote, error };
    }
    const [, reason = ""] = /: (.*)$/s.exec(what.slice(known.length)) ?? [];
    return closeInfo({ isApp: false, code, reason, remote, established, cause });
  }
  if (what.startsWith("peer doesn't implement any supported version")) {
    const error = new VortexError(
      "ProtocolNotSupported",
      "QUIC version negotiation failed: the peer supports no version that is known here",
      {
        cause,
      },
    );
    return { code: 0, reason: "", remote: true, error };
  }
  return silentEnd(false, established, server, cause);
}

/**
 * Converts an error of a read or write on a stream. Returns undefined if the stream failed because
 * its connection ended.
 */
export function streamError(cause: unknown): VortexError | undefined {
  const text = textOf(cause);
  const reset = /^(stream reset|sending stopped) by peer: error (\d+)$/.exec(text);
  if (reset !== null) {
    const [, what, code] = reset;
    const message =
      what === "stream reset" ? "the peer aborted the stream" : "the peer stopped reading";
    return new VortexError("StreamReset", `stream reset: ${message} (code ${code})`, { cause });
  }
  return text === "0-RTT rejected" ? earlyDataRefused(cause) : undefined;
}

/**
 * Creates the error for streams whose data was lost because the server refused early data (0-RTT).
 */
export function earlyDataRefused(cause?: unknown): VortexError {
  const message = "early data refused: the peer did not accept data sent before the handshake";
  return new VortexError("EarlyDataRefused", message, { cause });
}

/**
 * Returns true if a dial failed with `error` because the peer does not support the offered ALPN.
 */
export function isProtocolRefused(error: unknown): boolean {
  return error instanceof VortexError && error.code === "ProtocolNotSupported";
}

const INVALID_CERTIFICATE = "invalid peer certificate: ";

/**
 * Creates the error for a server certificate that this side refused. Deno does not expose the
 * certificate, so the message is derived from rustls's text.
 *
 * @param reason text of rustls about the fault
 */
function refusedCertificate(reason: string, { tls, name }: Trust, cause: unknown): VortexError {
  const fault = reason.replace(INVALID_CERTIFICATE, "");
  const message = certificateFault(fault, tls, name);
  return new VortexError(
    "HandshakeFailed",
    `certificate refused: ${message} (${remoteText(reason, 256)})`,
    { cause },
  );
}

/**
 * Describes the fault of a server certificate in words.
 *
 * @param fault text of rustls about the fault
 * @param name server name for which the certificate must be valid
 */
function certificateFault(fault: string, tls: TlsClientOptions, name: string): string {
  const expired = /not valid after (\d+)/.exec(fault);
  if (expired !== null) return `the certificate of the peer expired on ${timeOf(expired[1])}`;
  const early = /not valid before (\d+)/.exec(fault);
  if (early !== null)
    return `the certificate of the peer is valid only from ${timeOf(early[1])} on`;
  // The texts for a pinned certificate, whose validity period Deno checks too.
  if (fault === "Expired")
    return "the certificate of the peer has expired, which Deno refuses also of a pinned one";
  if (fault === "NotValidYet")
    return "the certificate of the peer is not valid yet, which Deno refuses also of a pinned one";
  if (tls.verify === false) {
    return (
      "the certificate of the peer was not accepted: Deno can leave no single connection unverified. " +
      "Start it with --unsafely-ignore-certificate-errors=d7y, pin the certificate (tls.fingerprints), " +
      "or name its authority (tls.ca)"
    );
  }
  if (fault.startsWith("certificate not valid for name")) {
    const names = /only valid for (.*)$/s
      .exec(fault)?.[1]
      ?.replaceAll(/\w+\("?([^")]*)"?\)/g, "$1");
    return otherNames(names, name);
  }
  if (fault === "UnknownIssuer" && tls.fingerprints !== undefined) {
    return "the certificate of the peer has a fingerprint which is not pinned";
  }
  // A different authority of the same name shows as a bad signature.
  if (fault === "UnknownIssuer" || fault === "BadSignature") return unknownAuthority;
  return "the certificate of the peer was not accepted";
}

function timeOf(seconds: string | undefined): string {
  return new Date(Number(seconds) * 1000).toISOString();
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

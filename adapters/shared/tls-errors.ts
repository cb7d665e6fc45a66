/** Messages for TLS alerts and certificate errors, the same for every binding. */
import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { remoteText, VortexError } from "../../src/errors.ts";
import { splitZone } from "../../src/transport/address.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";

/**
 * Reasons of the TLS alerts by which a peer rejects a certificate (RFC 8446, section 6.2), by alert
 * number. Empty if the alert does not say why.
 */
const certificateAlerts: Record<number, string> = {
  42: "",
  43: ": unsupported type",
  44: ": it was revoked",
  45: ": it has expired or is not valid yet",
  46: "",
  48: ": unknown authority",
  49: ": access denied",
};
/** Number of the TLS alert bad_certificate (RFC 8446, section 6). */
export const BAD_CERTIFICATE = 42;
/** Number of the TLS alert certificate_required (RFC 8446, section 6). */
const CERTIFICATE_REQUIRED = 116;
/** Number of the TLS alert no_application_protocol (RFC 7301, section 3.2). */
export const NO_APPLICATION_PROTOCOL = 120;

/** Texts for TLS alerts that are not about a certificate, by alert number. */
const otherAlerts: Record<number, string> = {
  40: "no common TLS parameters",
  51: "invalid handshake signature",
  70: "no common TLS version",
  112: "unknown server name",
  120: "no common application protocol",
};

/** Numbers of TLS alerts, by the name at the end of a node:tls error code, such as `UNKNOWN_CA`. */
const alertNames: Record<string, number> = {
  HANDSHAKE_FAILURE: 40,
  BAD_CERTIFICATE,
  UNSUPPORTED_CERTIFICATE: 43,
  CERTIFICATE_REVOKED: 44,
  CERTIFICATE_EXPIRED: 45,
  CERTIFICATE_UNKNOWN: 46,
  UNKNOWN_CA: 48,
  ACCESS_DENIED: 49,
  DECRYPT_ERROR: 51,
  PROTOCOL_VERSION: 70,
  UNRECOGNIZED_NAME: 112,
  CERTIFICATE_REQUIRED,
  NO_APPLICATION_PROTOCOL,
};

/** Returns true if a TLS alert means that its sender rejects the certificate of the other side. */
export function isAboutCertificate(alert: number): boolean {
  return certificateAlerts[alert] !== undefined;
}

/**
 * Formats the error message for a TLS alert.
 * @param alert number of the alert
 * @param remote true if the peer sent the alert, false if this side sent it
 */
export function alertMessage(alert: number, remote: boolean): string {
  if (alert === CERTIFICATE_REQUIRED) {
    return remote
      ? "peer requires a client certificate: set tls.cert and tls.key"
      : "client certificate required: the client sent none";
  }
  const reason = certificateAlerts[alert];
  if (reason !== undefined) {
    return remote
      ? `peer rejected the certificate of this side${reason}`
      : `peer certificate rejected${reason}`;
  }
  const side = remote ? "the peer" : "this side";
  return `TLS handshake ended by ${side}: ${otherAlerts[alert] ?? `TLS alert ${alert}`}`;
}

/**
 * Returns the number of the TLS alert that a node:tls error code names. For example, returns 116
 * for `ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED`. Returns undefined for other error codes.
 */
export function alertOfErrorCode(code: string): number | undefined {
  const [, name = ""] = /_ALERT_([A-Z_]+)$/.exec(code) ?? [];
  return alertNames[name];
}

/**
 * Returns true if an error code of node:tls means that the peer sent something other than TLS. The
 * code is the same in the TLS implementations of Node, Bun and Deno.
 */
export function isNotTls(code: string): boolean {
  return code === "ERR_SSL_WRONG_VERSION_NUMBER" || code === "ERR_SSL_PACKET_LENGTH_TOO_LONG";
}

/**
 * Creates the `HandshakeFailed` error for a peer certificate that a binding's TLS implementation
 * rejected.
 *
 * The reasons that the bindings report are imprecise. So this function checks the validity period
 * and the names of the certificate. If both are valid, the message says that the authority is
 * unknown. Without the certificate, the message has only the reason that the binding reported.
 *
 * @param leaf certificate of the peer in DER form; undefined if the binding does not provide it
 * @param detail reason that the binding reported
 */
export function refusedCertificate(
  leaf: Uint8Array | undefined,
  tls: TlsClientOptions,
  host: string,
  detail: string,
  cause?: unknown,
): VortexError {
  const reason = leaf === undefined ? "" : (certificateFault(leaf, tls, host) ?? unknownAuthority);
  const message = `${reason || "peer certificate rejected"} (${remoteText(detail)})`;
  return new VortexError("HandshakeFailed", message, { cause });
}

/**
 * Creates the error with which a server rejects a client whose certificate is missing or not
 * trusted. Used for bindings whose TLS implementation leaves this check to the application.
 *
 * @param sent true if the client sent a certificate, false if the certificate is missing
 * @param detail reason that the binding reported
 */
export function refusedClient(sent: boolean, detail: string): VortexError {
  const alert = sent ? BAD_CERTIFICATE : CERTIFICATE_REQUIRED;
  const message = `${alertMessage(alert, false)} (${detail})`;
  return new VortexError("HandshakeFailed", message, { cause: { alert } });
}

/**
 * Checks the validity period and the names of a peer's certificate. Returns the error message for
 * an invalid certificate, or undefined for a valid one.
 */
export function certificateFault(
  leaf: Uint8Array,
  tls: TlsClientOptions,
  host: string,
): string | undefined {
  const certificate = new X509Certificate(leaf);
  const [from, to] = [new Date(certificate.validFrom), new Date(certificate.validTo)];
  const now = Date.now();
  if (now > to.getTime()) return `peer certificate: expired on ${to.toISOString()}`;
  if (now < from.getTime()) return `peer certificate: valid only from ${from.toISOString()} on`;
  // A zone is valid on this host only, so certificates have none.
  const name = tls.serverName ?? splitZone(host)[0];
  const valid = isIP(name) === 0 ? certificate.checkHost(name) : certificate.checkIP(name);
  if (valid !== undefined) return undefined;
  return otherNames(certificate.subjectAltName, name);
}

/**
 * Formats the error message for a certificate that is valid for other names than `name`. Shortens
 * and sanitizes the certificate's names: a certificate may have tens of thousands of names with any
 * text.
 */
export function otherNames(names: string | undefined, name: string): string {
  return `peer certificate: is for ${remoteText(names ?? "no name")}, not for ${name}`;
}

/** Error message for a certificate whose authority is not trusted. */
export const unknownAuthority: string =
  "peer certificate: unknown authority; add the authority to tls.ca, or pin the fingerprint in " +
  "tls.fingerprints";

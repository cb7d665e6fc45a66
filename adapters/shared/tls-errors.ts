/** Messages for TLS alerts and certificate errors, the same for every binding. */
import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { remoteText, VortexError } from "../../src/errors.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import { splitZone } from "./local-address.ts";

/** Reasons of the alerts that reject the receiver's certificate (RFC 8446, section 6.2). */
const certificateAlerts: Record<number, string> = {
  42: "",
  43: ": unsupported type",
  44: ": it was revoked",
  45: ": it has expired or is not valid yet",
  46: "",
  48: ": unknown authority",
  49: ": access denied",
};
/** TLS alert bad_certificate (RFC 8446, section 6). */
export const BAD_CERTIFICATE = 42;
/** TLS alert certificate_required (RFC 8446, section 6). */
const CERTIFICATE_REQUIRED = 116;
/** TLS alert no_application_protocol (RFC 7301, section 3.2). */
export const NO_APPLICATION_PROTOCOL = 120;

/** Meanings of the other alerts that are explained in messages. */
const otherAlerts: Record<number, string> = {
  40: "no common TLS parameters",
  51: "invalid handshake signature",
  70: "no common TLS version",
  112: "unknown server name",
  120: "no common application protocol",
};

/** Alerts by their names at the end of node:tls error codes. */
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

/** Returns true if a TLS alert rejects the certificate of its receiver. */
export function isAboutCertificate(alert: number): boolean {
  return certificateAlerts[alert] !== undefined;
}

/** Formats the message for a TLS alert sent by the peer (`remote`) or by this side. */
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
 * Returns the alert named by an error code of node:tls, such as
 * `ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED`.
 */
export function alertOfErrorCode(code: string): number | undefined {
  const [, name = ""] = /_ALERT_([A-Z_]+)$/.exec(code) ?? [];
  return alertNames[name];
}

/**
 * Creates the error for a peer certificate that a binding's TLS implementation rejected.
 *
 * The bindings report different and imprecise reasons. So the certificate itself is checked for its
 * dates and names. If those are valid, the reason is an unknown authority.
 *
 * @param leaf certificate of the peer, DER; undefined if the binding does not provide it
 * @param detail reason reported by the binding
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
 * Creates the error for a client with a rejected or missing certificate, for bindings that leave
 * this check to the application.
 *
 * @param sent true if the client sent a certificate
 * @param detail reason reported by the binding
 */
export function refusedClient(sent: boolean, detail: string): VortexError {
  const alert = sent ? BAD_CERTIFICATE : CERTIFICATE_REQUIRED;
  const message = `${alertMessage(alert, false)} (${detail})`;
  return new VortexError("HandshakeFailed", message, { cause: { alert } });
}

/** Checks the validity period and the names of a certificate. Returns the fault, or undefined. */
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
 * Formats the message for a certificate with other names than `name`. The names are shortened and
 * sanitized: a certificate may have tens of thousands of them, with any text.
 */
export function otherNames(names: string | undefined, name: string): string {
  return `peer certificate: is for ${remoteText(names ?? "no name")}, not for ${name}`;
}

/** Message for a certificate of an authority that is not trusted. */
export const unknownAuthority: string =
  "peer certificate: unknown authority; add the authority to tls.ca, or pin the fingerprint in " +
  "tls.fingerprints";

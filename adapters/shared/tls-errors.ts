/** What goes wrong between two certificates, in the same words over every binding. */
import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { remoteText, VortexError } from "../../src/errors.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import { splitZone } from "./local-address.ts";

/** What an alert holds against the certificate of the other side (RFC 8446, section 6.2). */
const certificateAlerts: Record<number, string> = {
  42: "",
  43: ": it is of an unsupported kind",
  44: ": it was revoked",
  45: ": it has expired or is not valid yet",
  46: "",
  48: ": it comes from an unknown authority",
  49: ": it gives no access",
};
/** RFC 8446, section 6. */
export const BAD_CERTIFICATE = 42;
const CERTIFICATE_REQUIRED = 116;
/** RFC 7301, section 3.2. */
export const NO_APPLICATION_PROTOCOL = 120;

const otherAlerts: Record<number, string> = {
  40: "no common TLS parameters",
  51: "a signature of the handshake is wrong",
  70: "no common TLS version",
  112: "the name that was asked for is unknown",
  120: "no common application protocol",
};

/** Alerts by the names that node:tls has for them at the end of its error codes. */
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

/** Whether a TLS alert is about the certificate of the side that did not send it. */
export function isAboutCertificate(alert: number): boolean {
  return certificateAlerts[alert] !== undefined;
}

/** What a TLS alert means, sent by the peer (`remote`) or by this side. */
export function alertMessage(alert: number, remote: boolean): string {
  if (alert === CERTIFICATE_REQUIRED) {
    return remote
      ? "the peer requires a client certificate: expected tls.cert and tls.key"
      : "the client showed no certificate";
  }
  const reason = certificateAlerts[alert];
  if (reason !== undefined) {
    return remote
      ? `the peer did not accept the certificate of this side${reason}`
      : `the certificate of the peer was not accepted${reason}`;
  }
  return `${remote ? "the peer" : "this side"} ended the handshake: ${otherAlerts[alert] ?? `TLS alert ${alert}`}`;
}

/** The alert that an error code of node:tls names, such as `ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED`. */
export function alertNamed(code: string): number | undefined {
  const [, name = ""] = /_ALERT_([A-Z_]+)$/.exec(code) ?? [];
  return alertNames[name];
}

/**
 * Why a peer's certificate was refused by the TLS inside a binding. Each of them tells something else, and less than the
 * certificate itself: what is wrong with it is looked for there, and what is not found there is its authority.
 *
 * @param leaf the peer's own certificate, DER; undefined when the binding does not hand it out
 * @param detail what the binding says
 */
export function refusedCertificate(
  leaf: Uint8Array | undefined,
  tls: TlsClientOptions,
  host: string,
  detail: string,
  cause?: unknown,
): VortexError {
  const reason = leaf === undefined ? "" : (certificateFault(leaf, tls, host) ?? unknownAuthority);
  const message = reason === "" ? "the certificate of the peer was not accepted" : reason;
  return new VortexError("HandshakeFailed", `${message} (${remoteText(detail)})`, { cause });
}

/**
 * A client that is turned away for its certificate, or for having none, where a binding leaves that to the application.
 *
 * @param showed whether it has shown one
 * @param detail what the binding says
 */
export function refusedClient(showed: boolean, detail: string): VortexError {
  const alert = showed ? BAD_CERTIFICATE : CERTIFICATE_REQUIRED;
  return new VortexError("HandshakeFailed", `${alertMessage(alert, false)} (${detail})`, {
    cause: { alert },
  });
}

/** What a certificate itself shows to be wrong with it: its time, or its names. */
export function certificateFault(
  leaf: Uint8Array,
  tls: TlsClientOptions,
  host: string,
): string | undefined {
  const certificate = new X509Certificate(leaf);
  const [from, to] = [new Date(certificate.validFrom), new Date(certificate.validTo)];
  const now = Date.now();
  if (now > to.getTime()) return `the certificate of the peer expired on ${to.toISOString()}`;
  if (now < from.getTime())
    return `the certificate of the peer is valid only from ${from.toISOString()} on`;
  // A zone means something on this host only; no certificate has one.
  const name = tls.serverName ?? splitZone(host)[0];
  const valid = isIP(name) === 0 ? certificate.checkHost(name) : certificate.checkIP(name);
  if (valid !== undefined) return undefined;
  return otherNames(certificate.subjectAltName, name);
}

/** A certificate may have tens of thousands of names, and any text in them. */
export function otherNames(names: string | undefined, name: string): string {
  return `the certificate of the peer is for ${remoteText(names ?? "no name")}, not for ${name}`;
}

export const unknownAuthority: string =
  "the certificate of the peer comes from no authority that is trusted here: " +
  "name its authority (tls.ca), or pin its fingerprint (tls.fingerprints)";

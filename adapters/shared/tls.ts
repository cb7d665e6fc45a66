/** TLS functions shared by all bindings: server identities, and checks of a peer's certificate. */
import { createHash, createPrivateKey, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsIdentity, TlsServerOptions } from "../../src/transport/tls.ts";
import { certificateFault } from "./tls-errors.ts";

const DAY_MS = 86_400_000;
/**
 * Min remaining validity, in ms, of a stored certificate that a server uses again. If the remaining
 * validity is shorter, the server creates a new certificate.
 */
const MIN_VALIDITY_MS = DAY_MS;

/**
 * Returns the certificate and key for a server: from the options if set there, otherwise from the
 * identity store. Creates a self-signed certificate if there is no certificate, or if the stored
 * one expires within a day. Saves the created certificate to the store, if any.
 *
 * Rejects with `InvalidArgument` if a certificate or key is invalid, or if the options have both a
 * certificate and a store. Rejects with the errors of the store.
 */
export async function serverIdentity(options: TlsServerOptions): Promise<TlsIdentity> {
  const { identityStore } = options;
  const given = identityOf(options);
  if (given !== undefined && identityStore !== undefined) {
    throw new VortexError(
      "InvalidArgument",
      "tls.cert, tls.identityStore: expected one of them, got both",
    );
  }
  authoritiesOf(options.clientCa);
  if (given !== undefined) return given;
  const kept = await identityStore?.load();
  if (kept !== undefined && expiryOf(kept) - Date.now() > MIN_VALIDITY_MS)
    return requireIdentity(kept);
  const created = await selfSigned();
  if (kept === undefined && identityStore?.saveFirst !== undefined) {
    return requireIdentity(await identityStore.saveFirst(created));
  }
  await identityStore?.save(created);
  return created;
}

/**
 * Returns the SHA-256 fingerprint of the first certificate in a PEM text. The hash covers the
 * certificate's DER form. The result is upper-case hex with colons.
 */
export function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

/**
 * Checks that the first certificate of a peer's chain has a pinned fingerprint. If no fingerprints
 * are pinned, checks the certificate's validity period and names. Accepts any chain if `verify` is
 * false.
 *
 * This adds to the check by a binding's TLS implementation, which does not know fingerprints and
 * compares IP addresses as names.
 * @throws `HandshakeFailed` if the chain is empty or a check fails
 */
export function checkCertificate(
  chain: readonly Uint8Array[] | null,
  options: TlsClientOptions,
  host: string,
): void {
  if (options.verify === false) return;
  const [leaf] = chain ?? [];
  if (leaf === undefined)
    throw new VortexError("HandshakeFailed", "peer certificate: none received");
  const pins = pinsOf(options);
  if (pins !== undefined) {
    const found = createHash("sha256").update(leaf).digest("hex");
    if (pins.includes(found)) return;
    const formatted = found.toUpperCase().replaceAll(/..(?=.)/g, "$&:");
    const message =
      `peer certificate: fingerprint ${formatted} is not pinned; ` +
      "if it is the right peer, add it to tls.fingerprints";
    throw new VortexError("HandshakeFailed", message);
  }
  const fault = certificateFault(leaf, options, host);
  if (fault !== undefined) throw new VortexError("HandshakeFailed", fault);
}

/**
 * Name in the certificates of dfdaemon. dfdaemon's clients send this name as the server name (SNI)
 * for every address.
 */
export const STOCK_NAME = "d7y";

/**
 * Returns the server name that a client sends (SNI) and verifies. SNI does not allow IP addresses
 * (RFC 6066, section 3). For an IP address, returns `d7y` if the certificate's name is not
 * verified, otherwise undefined.
 *
 * Sending `d7y` is better than no SNI, because a Bun server shows a changed certificate only to
 * clients with SNI.
 */
export function serverNameOf(options: TlsClientOptions, host: string): string | undefined {
  const name = options.serverName ?? host;
  if (isIP(name) === 0) return name;
  return options.verify === false || options.fingerprints !== undefined ? STOCK_NAME : undefined;
}

/**
 * Returns the certificate and key of TLS options, or undefined if neither is set.
 * @throws `InvalidArgument` if only one of the two is set, or if {@link requireIdentity} rejects
 * them
 */
export function identityOf({
  cert,
  key,
}: {
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
}): TlsIdentity | undefined {
  if ((cert === undefined) !== (key === undefined)) {
    throw new VortexError(
      "InvalidArgument",
      `tls.cert, tls.key: expected both or neither, got only ${cert === undefined ? "tls.key" : "tls.cert"}`,
    );
  }
  return cert === undefined || key === undefined ? undefined : requireIdentity({ cert, key });
}

/**
 * Checks that a certificate and a private key are valid and belong together. Returns both
 * unchanged. Some TLS implementations check them only at the first connection.
 * @throws `InvalidArgument` if the certificate or key is invalid, or if the key belongs to another
 * certificate
 */
export function requireIdentity(identity: TlsIdentity): TlsIdentity {
  const certificate = requireCertificate("tls.cert", identity.cert);
  let fits: boolean;
  try {
    fits = certificate.checkPrivateKey(createPrivateKey(identity.key));
  } catch (error) {
    throw VortexError.from(
      error,
      "InvalidArgument",
      "tls.key: expected an unencrypted private key in PEM form",
    );
  }
  if (!fits)
    throw new VortexError(
      "InvalidArgument",
      "tls.key: expected the private key of tls.cert, got another key",
    );
  return identity;
}

/**
 * Splits a PEM text with the certificates of authorities into one text for each certificate.
 * Returns undefined if `ca` is undefined.
 * @throws `InvalidArgument` if the text contains no certificate or an invalid certificate
 */
export function authoritiesOf(ca: string | undefined): string[] | undefined {
  if (ca === undefined) return undefined;
  const found = ca.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (found.length === 0)
    throw new VortexError(
      "InvalidArgument",
      "tls.ca, tls.clientCa: expected PEM certificates, got text without one",
    );
  for (const each of found) requireCertificate("tls.ca, tls.clientCa", each);
  return found;
}

/**
 * Returns the pinned certificate fingerprints in lower-case hex without colons, or undefined if
 * none are set.
 * @throws `InvalidArgument` if a fingerprint does not have 64 hex digits, or if the list is empty
 */
export function pinsOf({ fingerprints }: TlsClientOptions): string[] | undefined {
  if (fingerprints === undefined) return undefined;
  const pins = fingerprints.map((pin) => pin.replaceAll(":", "").toLowerCase());
  const wrong = pins.findIndex((pin) => !/^[0-9a-f]{64}$/.test(pin));
  if (wrong >= 0 || pins.length === 0) {
    throw new VortexError(
      "InvalidArgument",
      `tls.fingerprints: expected SHA-256 fingerprints of 64 hex digits, got ${JSON.stringify(fingerprints[wrong] ?? [])}`,
    );
  }
  return pins;
}

/**
 * Creates a self-signed certificate and its key, valid for ten years. The certificate has the names
 * `d7y` (dfdaemon's name), `localhost`, 127.0.0.1 and ::1.
 */
export async function selfSigned(): Promise<TlsIdentity> {
  // Loaded on demand: clients, and servers with a given certificate, do not need it.
  const { generate } = await import("selfsigned");
  const { cert, private: key } = await generate([{ name: "commonName", value: "vortex-peer" }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() - DAY_MS),
    notAfterDate: new Date(Date.now() + 3650 * DAY_MS),
    extensions: [
      {
        name: "subjectAltName",
        altNames: [
          { type: 2, value: STOCK_NAME },
          { type: 2, value: "localhost" },
          { type: 7, ip: "127.0.0.1" },
          { type: 7, ip: "::1" },
        ],
      },
    ],
  });
  return { cert: `${cert.trim()}\n`, key: `${key.trim()}\n` };
}

/** Returns the expiry time of a certificate, in ms since the Unix epoch. */
function expiryOf({ cert }: TlsIdentity): number {
  return new Date(requireCertificate("the kept certificate", cert).validTo).getTime();
}

function requireCertificate(name: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw VortexError.from(error, "InvalidArgument", `${name}: expected a certificate in PEM form`);
  }
}

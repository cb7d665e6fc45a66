/** TLS functions shared by all bindings: server identities, and checks of a peer's certificate. */
import { createHash, createPrivateKey, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsIdentity, TlsServerOptions } from "../../src/transport/tls.ts";
import { certificateFault } from "./tls-errors.ts";

const DAY_MS = 86_400_000;
/** Min remaining validity for a kept certificate to be used again, in ms. */
const MIN_VALIDITY_MS = DAY_MS;

/**
 * Returns the certificate and key for a server: those of the options, else those of the identity
 * store. If the store is empty, or its certificate expires within a day, creates a self-signed
 * certificate and saves it to the store.
 *
 * Rejects with `InvalidArgument` for an invalid certificate or key, and with the store's errors.
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

/** Returns the SHA-256 of the first certificate in `pem` (DER), in upper-case hex with colons. */
export function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

/**
 * Checks a peer's certificate chain for pinned fingerprints, dates and names. A binding's TLS
 * implementation does not check fingerprints, and compares IP addresses as names.
 * @throws `HandshakeFailed`
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

/** Name in dfdaemon's certificates. Its clients send it as the server name for every address. */
export const STOCK_NAME = "d7y";

/**
 * Returns the server name to send and verify (SNI). IP addresses are not allowed in SNI (RFC 6066,
 * section 3). For an IP address the result is dfdaemon's name if the certificate's name is not
 * checked, else undefined.
 *
 * A name is sent if possible, because a Bun server shows a changed certificate only to clients with
 * SNI.
 */
export function serverNameOf(options: TlsClientOptions, host: string): string | undefined {
  const name = options.serverName ?? host;
  if (isIP(name) === 0) return name;
  return options.verify === false || options.fingerprints !== undefined ? STOCK_NAME : undefined;
}

/**
 * Returns the certificate and key of the options; undefined without both.
 * @throws `InvalidArgument` for one without the other, and like {@link requireIdentity}
 */
export function identityOf({
  cert,
  key,
}: {
  readonly cert?: string;
  readonly key?: string;
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
 * Checks that certificate and key are valid and belong together, and returns the identity. Some TLS
 * implementations check them only at the first connection.
 * @throws `InvalidArgument` for an invalid certificate or key, and for a key of another certificate
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
 * Splits a PEM text into one text for each certificate authority. Undefined for undefined.
 * @throws `InvalidArgument` for text without a certificate, and for an invalid certificate
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
 * Returns the pinned fingerprints in lower-case hex without colons. Undefined if none are set.
 * @throws `InvalidArgument` for an invalid fingerprint, or an empty list
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
 * Creates a self-signed certificate and key, valid for ten years. Its names are `d7y` (dfdaemon's
 * name), `localhost`, 127.0.0.1 and ::1.
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

/** Returns the expiry time of a certificate, in ms since the epoch. */
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

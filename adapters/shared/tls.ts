/** What all bindings share of TLS: identities, and what is checked of a peer's certificate. */
import { createHash, createPrivateKey, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsIdentity, TlsServerOptions } from "../../src/transport/tls.ts";
import { certificateFault } from "./tls-errors.ts";

const DAY = 86_400_000;
/** Milliseconds that a kept certificate must be valid for still, to be used again. */
const MIN_VALIDITY_MS = DAY;

/**
 * The identity that the options name; else the one that their store keeps, unless it ends within a day; else a new self-signed
 * one, which the store keeps from then on.
 *
 * Rejects with `InvalidArgument` for a certificate or key that is none, and as the store does.
 */
export async function serverIdentity(options: TlsServerOptions): Promise<TlsIdentity> {
  const { identityStore } = options;
  const given = identityOf(options);
  if (given !== undefined && identityStore !== undefined) {
    throw new VortexError(
      "InvalidArgument",
      "tls.cert and tls.identityStore: expected one of them",
    );
  }
  authoritiesOf(options.clientCa);
  if (given !== undefined) return given;
  const kept = await identityStore?.load();
  if (kept !== undefined && endOf(kept) - Date.now() > MIN_VALIDITY_MS)
    return requireIdentity(kept);
  const made = await selfSigned();
  if (kept === undefined && identityStore?.saveFirst !== undefined) {
    return requireIdentity(await identityStore.saveFirst(made));
  }
  await identityStore?.save(made);
  return made;
}

/** SHA-256 over the DER form of the first certificate in `pem`: upper-case hex with colons. */
export function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

/**
 * What the TLS inside a binding leaves to the application: pinned fingerprints, and addresses, which it would compare as names.
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
    throw new VortexError("HandshakeFailed", "the peer showed no certificate");
  const pins = pinsOf(options);
  if (pins !== undefined) {
    const found = createHash("sha256").update(leaf).digest("hex");
    if (pins.includes(found)) return;
    const spelled = found.toUpperCase().replaceAll(/..(?=.)/g, "$&:");
    const message =
      `the certificate of the peer has fingerprint ${spelled}, which is not pinned; ` +
      "if it is the right peer, add that to tls.fingerprints";
    throw new VortexError("HandshakeFailed", message);
  }
  const fault = certificateFault(leaf, options, host);
  if (fault !== undefined) throw new VortexError("HandshakeFailed", fault);
}

/** The name in the certificates of stock peers, which their clients send whatever address they dial. */
export const STOCK_NAME = "d7y";

/**
 * The name to send and verify inside TLS. Addresses are no names there (RFC 6066, section 3), so where the name of the
 * certificate does not count, it is that of stock peers: Bun shows a certificate that was changed only to who sends a name.
 */
export function serverNameOf(options: TlsClientOptions, host: string): string | undefined {
  const name = options.serverName ?? host;
  if (isIP(name) === 0) return name;
  return options.verify === false || options.fingerprints !== undefined ? STOCK_NAME : undefined;
}

/**
 * The certificate and key of the options.
 * @throws `InvalidArgument` for one without the other, and as {@link requireIdentity}
 */
export function identityOf({
  cert,
  key,
}: {
  readonly cert?: string;
  readonly key?: string;
}): TlsIdentity | undefined {
  if ((cert === undefined) !== (key === undefined)) {
    throw new VortexError("InvalidArgument", "tls.cert and tls.key: expected both or neither");
  }
  return cert === undefined || key === undefined ? undefined : requireIdentity({ cert, key });
}

/**
 * The identity itself. Not every runtime's TLS looks at what it is given before somebody connects.
 * @throws `InvalidArgument` for a certificate or key that cannot be read, and for a key of another certificate
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
      "tls.key: expected the key of the certificate, not another one",
    );
  return identity;
}

/**
 * Certificate authorities, one PEM text each; undefined when there are none.
 * @throws `InvalidArgument` for text without a certificate, and for one that cannot be read
 */
export function authoritiesOf(ca: string | undefined): string[] | undefined {
  if (ca === undefined) return undefined;
  const found = ca.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (found.length === 0)
    throw new VortexError("InvalidArgument", "tls.ca, tls.clientCa: expected certificates, PEM");
  for (const each of found) requireCertificate("tls.ca, tls.clientCa", each);
  return found;
}

/**
 * The pinned fingerprints of the options, lower-case hex without colons; undefined when none are given.
 * @throws `InvalidArgument` for what is no fingerprint
 */
export function pinsOf({ fingerprints }: TlsClientOptions): string[] | undefined {
  if (fingerprints === undefined) return undefined;
  const pins = fingerprints.map((pin) => pin.replaceAll(":", "").toLowerCase());
  const wrong = pins.findIndex((pin) => !/^[0-9a-f]{64}$/.test(pin));
  if (wrong >= 0 || pins.length === 0) {
    throw new VortexError(
      "InvalidArgument",
      `tls.fingerprints ${JSON.stringify(fingerprints[wrong] ?? [])}: expected SHA-256 fingerprints, 64 hex digits each`,
    );
  }
  return pins;
}

/** A new self-signed identity, valid for ten years, for the names `d7y`, as stock peers have it, and `localhost`. */
export async function selfSigned(): Promise<TlsIdentity> {
  // Loaded here, since clients and servers with a certificate of their own do without it.
  const { generate } = await import("selfsigned");
  const { cert, private: key } = await generate([{ name: "commonName", value: "vortex-peer" }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() - DAY),
    notAfterDate: new Date(Date.now() + 3650 * DAY),
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

function endOf({ cert }: TlsIdentity): number {
  return new Date(requireCertificate("the kept certificate", cert).validTo).getTime();
}

function requireCertificate(name: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw VortexError.from(error, "InvalidArgument", `${name}: expected a certificate in PEM form`);
  }
}

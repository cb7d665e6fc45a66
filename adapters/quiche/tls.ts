import { createHash, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { rootCertificates } from "node:tls";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsServerOptions } from "../../src/transport/tls.ts";
import type { NativeConfig, Quiche } from "./native.ts";

/** What BoringSSL, inside quiche, offers to verify with; it has no default list for this way of making a context. */
const SIGNATURE_ALGORITHMS = [
  "ecdsa_secp256r1_sha256",
  "ecdsa_secp384r1_sha384",
  "ecdsa_secp521r1_sha512",
  "ed25519",
  "rsa_pss_rsae_sha256",
  "rsa_pss_rsae_sha384",
  "rsa_pss_rsae_sha512",
  "rsa_pkcs1_sha256",
  "rsa_pkcs1_sha384",
  "rsa_pkcs1_sha512",
].join(":");

/** A certificate chain and its key, PEM. */
export interface Identity {
  readonly cert: string;
  readonly key: string;
}

/** A native configuration that verifies peers as `options` say. */
export function clientConfig(quiche: Quiche, options: TlsClientOptions): NativeConfig {
  const pins = pinsOf(options);
  const anyCertificate = options.verify === false || pins !== undefined;
  if ((options.cert === undefined) !== (options.key === undefined)) {
    throw new VortexError("InvalidArgument", "tls.cert and tls.key: expected both or neither");
  }
  const ca = anyCertificate ? undefined : (options.ca ?? rootCertificates.join("\n"));
  return nativeConfig(quiche, !anyCertificate, ca, identityOf(options));
}

/** A native configuration that shows `identity`, and asks clients for certificates of `clientCa` if that is given. */
export function serverConfig(quiche: Quiche, identity: Identity, clientCa: string | undefined): NativeConfig {
  return nativeConfig(quiche, clientCa !== undefined, clientCa, identity);
}

/** The identity that the options name, or a new self-signed one. */
export async function serverIdentity(options: TlsServerOptions): Promise<Identity> {
  if ((options.cert === undefined) !== (options.key === undefined)) {
    throw new VortexError("InvalidArgument", "tls.cert and tls.key: expected both or neither");
  }
  return identityOf(options) ?? selfSigned();
}

/** SHA-256 over the DER form of the first certificate in `pem`: upper-case hex with colons. */
export function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

/**
 * What BoringSSL leaves to the application: pinned fingerprints, and addresses, which it would compare as names.
 * @throws `HandshakeFailed`
 */
export function checkCertificate(chain: readonly Uint8Array[] | null, options: TlsClientOptions, host: string): void {
  if (options.verify === false) return;
  const [leaf] = chain ?? [];
  if (leaf === undefined) throw new VortexError("HandshakeFailed", "the peer showed no certificate");
  const pins = pinsOf(options);
  if (pins !== undefined) {
    const found = createHash("sha256").update(leaf).digest("hex");
    if (!pins.includes(found)) {
      throw new VortexError("HandshakeFailed", `the peer's certificate has fingerprint ${found}, which is not pinned`);
    }
    return;
  }
  const name = options.serverName ?? host;
  const certificate = new X509Certificate(leaf);
  const valid = isIP(name) === 0 ? certificate.checkHost(name) : certificate.checkIP(name);
  if (valid === undefined) {
    const names = certificate.subjectAltName ?? "no name";
    throw new VortexError("HandshakeFailed", `the peer's certificate is for ${names}, not for ${name}`);
  }
}

/** The name to send and verify inside TLS; addresses are no names there (RFC 6066, section 3). */
export function serverNameOf(options: TlsClientOptions, host: string): string | undefined {
  const name = options.serverName ?? host;
  return isIP(name) === 0 ? name : undefined;
}

function nativeConfig(
  quiche: Quiche,
  verify: boolean,
  ca: string | undefined,
  identity: Identity | undefined,
): NativeConfig {
  const encoder = new TextEncoder();
  // BoringSSL takes text without any certificate for an empty list, which would trust nobody.
  if (ca !== undefined && !ca.includes("-----BEGIN CERTIFICATE-----")) {
    throw new VortexError("InvalidArgument", "certificate authority: expected certificates in PEM form");
  }
  try {
    return quiche.Config.withBoringSslCtx(
      verify,
      false,
      ca === undefined ? undefined : encoder.encode(ca),
      identity && [encoder.encode(identity.key)],
      identity && [encoder.encode(identity.cert)],
      SIGNATURE_ALGORITHMS,
    );
  } catch (error) {
    throw VortexError.from(error, "InvalidArgument", "certificate, key or certificate authority not accepted");
  }
}

function identityOf({ cert, key }: { readonly cert?: string; readonly key?: string }): Identity | undefined {
  return cert === undefined || key === undefined ? undefined : { cert, key };
}

function pinsOf({ fingerprints }: TlsClientOptions): string[] | undefined {
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

async function selfSigned(): Promise<Identity> {
  // Loaded here, since clients and servers with a certificate of their own do without it.
  const { generate } = await import("selfsigned");
  const days = 86_400_000;
  const { cert, private: key } = await generate([{ name: "commonName", value: "vortex-peer" }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() - days),
    notAfterDate: new Date(Date.now() + 3650 * days),
    extensions: [
      {
        name: "subjectAltName",
        altNames: [
          { type: 2, value: "d7y" },
          { type: 2, value: "localhost" },
          { type: 7, ip: "127.0.0.1" },
          { type: 7, ip: "::1" },
        ],
      },
    ],
  });
  return { cert, key };
}

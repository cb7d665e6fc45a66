import { rootCertificates } from "node:tls";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsIdentity } from "../../src/transport/tls.ts";
import { authoritiesOf, identityOf, pinsOf, requireIdentity } from "../shared/tls.ts";
import type { NativeConfig, Quiche } from "./native.ts";

/**
 * Signature algorithms to offer in TLS handshakes, separated by colons. They are set here because
 * BoringSSL has no default list for contexts that quiche's binding creates.
 */
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

/**
 * Creates quiche's configuration for a client, with the certificate authorities and the client
 * certificate from `options`.
 *
 * With pinned fingerprints or `verify: false`, BoringSSL accepts any server certificate. The caller
 * compares the fingerprints after the handshake.
 *
 * @throws `InvalidArgument` if an authority, the certificate or the key in `options` is unusable
 */
export function clientConfig(quiche: Quiche, options: TlsClientOptions): NativeConfig {
  const pins = pinsOf(options);
  const anyCertificate = options.verify === false || pins !== undefined;
  const ca = authoritiesOf(options.ca) ?? rootCertificates;
  return nativeConfig(quiche, anyCertificate ? undefined : ca, identityOf(options));
}

/**
 * Creates quiche's configuration for a server with the certificate and private key in `identity`.
 *
 * @param clientCa PEM certificates of the authorities that must have issued the client's
 * certificate. If undefined, the server requests no client certificate.
 * @throws `InvalidArgument` if an authority, the certificate or the key is unusable
 */
export function serverConfig(
  quiche: Quiche,
  identity: TlsIdentity,
  clientCa: string | undefined,
): NativeConfig {
  return nativeConfig(quiche, authoritiesOf(clientCa), requireIdentity(identity));
}

/**
 * Creates quiche's configuration with a TLS context.
 *
 * @param ca PEM certificates of the authorities that must have issued the peer's certificate. If
 * undefined, any certificate is accepted.
 * @param identity certificate and private key of this side; undefined for no certificate
 * @throws `InvalidArgument` if BoringSSL rejects the certificate, the key or an authority
 */
function nativeConfig(
  quiche: Quiche,
  ca: readonly string[] | undefined,
  identity: TlsIdentity | undefined,
): NativeConfig {
  const encoder = new TextEncoder();
  try {
    return quiche.Config.withBoringSslCtx(
      ca !== undefined,
      false,
      ca && encoder.encode(ca.join("\n")),
      identity && [encoder.encode(identity.key)],
      identity && [encoder.encode(identity.cert)],
      SIGNATURE_ALGORITHMS,
    );
  } catch (error) {
    throw VortexError.from(
      error,
      "InvalidArgument",
      "cannot use the TLS certificate, key or certificate authority",
    );
  }
}

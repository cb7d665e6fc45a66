import { rootCertificates } from "node:tls";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsIdentity } from "../../src/transport/tls.ts";
import { authoritiesOf, identityOf, pinsOf, requireIdentity } from "../shared/tls.ts";
import type { NativeConfig, Quiche } from "./native.ts";

/** Signature algorithms to offer. BoringSSL has no default list for contexts created this way. */
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

/** Creates a client configuration that verifies the peer's certificate according to `options`. */
export function clientConfig(quiche: Quiche, options: TlsClientOptions): NativeConfig {
  const pins = pinsOf(options);
  const anyCertificate = options.verify === false || pins !== undefined;
  const ca = authoritiesOf(options.ca) ?? rootCertificates;
  return nativeConfig(quiche, anyCertificate ? undefined : ca, identityOf(options));
}

/**
 * Creates a server configuration with certificate `identity`; `clientCa` requires client
 * certificates.
 */
export function serverConfig(
  quiche: Quiche,
  identity: TlsIdentity,
  clientCa: string | undefined,
): NativeConfig {
  return nativeConfig(quiche, authoritiesOf(clientCa), requireIdentity(identity));
}

/** Creates a configuration; `ca` makes it require and verify the peer's certificate. */
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

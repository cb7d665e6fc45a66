import { rootCertificates } from "node:tls";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsIdentity } from "../../src/transport/tls.ts";
import { authoritiesOf, identityOf, pinsOf, requireIdentity } from "../shared/tls.ts";
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

/** A native configuration that verifies peers as `options` say. */
export function clientConfig(quiche: Quiche, options: TlsClientOptions): NativeConfig {
  const pins = pinsOf(options);
  const anyCertificate = options.verify === false || pins !== undefined;
  const ca = authoritiesOf(options.ca) ?? rootCertificates;
  return nativeConfig(quiche, anyCertificate ? undefined : ca, identityOf(options));
}

/** A native configuration that shows `identity`, and asks clients for certificates of `clientCa` if that is given. */
export function serverConfig(
  quiche: Quiche,
  identity: TlsIdentity,
  clientCa: string | undefined,
): NativeConfig {
  return nativeConfig(quiche, authoritiesOf(clientCa), requireIdentity(identity));
}

/** Asks for certificates of `ca`, and verifies them, if that is given. */
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
      "certificate, key or certificate authority not accepted",
    );
  }
}

import { rootCertificates } from "node:tls";
import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsIdentity } from "../../src/transport/tls.ts";
import { identityOf, pinsOf } from "../tls.ts";
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
  const ca = anyCertificate ? undefined : (options.ca ?? rootCertificates.join("\n"));
  return nativeConfig(quiche, !anyCertificate, ca, identityOf(options));
}

/** A native configuration that shows `identity`, and asks clients for certificates of `clientCa` if that is given. */
export function serverConfig(quiche: Quiche, identity: TlsIdentity, clientCa: string | undefined): NativeConfig {
  return nativeConfig(quiche, clientCa !== undefined, clientCa, identity);
}

function nativeConfig(
  quiche: Quiche,
  verify: boolean,
  ca: string | undefined,
  identity: TlsIdentity | undefined,
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

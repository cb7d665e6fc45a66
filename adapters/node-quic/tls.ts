import { createPrivateKey } from "node:crypto";
import { rootCertificates } from "node:tls";
import type { TlsClientOptions, TlsIdentity } from "../../src/transport/tls.ts";
import { authoritiesOf, identityOf, pinsOf, requireIdentity } from "../shared/tls.ts";
import type { NativeIdentity } from "./native.ts";

/** TLS settings of a client, in the format of `node:quic`. */
export interface ClientTls {
  /** True if the peer's certificate must be issued by one of the authorities in `ca`. */
  readonly verify: boolean;
  /** Trusted certificate authorities in PEM. */
  readonly ca: readonly Uint8Array[];
  readonly identity: NativeIdentity | undefined;
}

/**
 * Converts the TLS options for outgoing connections to the format of `node:quic`.
 *
 * @throws `InvalidArgument` if the certificate, its key or an authority is unusable
 */
export function clientTls(options: TlsClientOptions): ClientTls {
  const identity = identityOf(options);
  const named = authoritiesOf(options.ca);
  const verify = pinsOf(options) === undefined && options.verify !== false;
  // Without authorities the module would load the system's at every dial, so one is passed even if
  // it is not needed.
  const authorities = verify ? (named ?? rootCertificates) : rootCertificates.slice(0, 1);
  return {
    verify,
    ca: [encode(authorities.join("\n"))],
    identity: identity && nativeIdentity(identity),
  };
}

/**
 * Converts the certificate authorities for client certificates from PEM to bytes. Returns undefined
 * if `clientCa` is undefined.
 *
 * @throws `InvalidArgument` if `clientCa` contains no usable authority
 */
export function clientAuthorities(clientCa: string | undefined): readonly Uint8Array[] | undefined {
  return authoritiesOf(clientCa)?.map(encode);
}

/**
 * Converts a certificate and its private key to the format of `node:quic`.
 *
 * @throws `InvalidArgument` if the certificate or the key is unusable
 */
export function nativeIdentity(identity: TlsIdentity): NativeIdentity {
  const { cert, key } = requireIdentity(identity);
  return { keys: [createPrivateKey(key)], certs: [encode(cert)] };
}

function encode(pem: string): Uint8Array {
  return new TextEncoder().encode(pem);
}

import { createPrivateKey } from "node:crypto";
import { rootCertificates } from "node:tls";
import type { TlsClientOptions, TlsIdentity } from "../../src/transport/tls.ts";
import { authoritiesOf, identityOf, pinsOf, requireIdentity } from "../shared/tls.ts";
import type { NativeIdentity } from "./native.ts";

/** How a client's TLS is set up. */
export interface ClientTls {
  /** Whether the peer's certificate must come from an authority. */
  readonly verify: boolean;
  readonly ca: readonly Uint8Array[];
  readonly identity: NativeIdentity | undefined;
}

/** @throws `InvalidArgument` */
export function clientTls(options: TlsClientOptions): ClientTls {
  const identity = identityOf(options);
  const named = authoritiesOf(options.ca);
  const verify = pinsOf(options) === undefined && options.verify !== false;
  // Without authorities the module would read those of the system at every dial, so one is named where none is asked.
  const authorities = verify ? (named ?? rootCertificates) : rootCertificates.slice(0, 1);
  return {
    verify,
    ca: [encode(authorities.join("\n"))],
    identity: identity && nativeIdentity(identity),
  };
}

/** @throws `InvalidArgument` */
export function clientAuthorities(clientCa: string | undefined): readonly Uint8Array[] | undefined {
  return authoritiesOf(clientCa)?.map(encode);
}

/** @throws `InvalidArgument` for a certificate or key that is none */
export function nativeIdentity(identity: TlsIdentity): NativeIdentity {
  const { cert, key } = requireIdentity(identity);
  return { keys: [createPrivateKey(key)], certs: [encode(cert)] };
}

function encode(pem: string): Uint8Array {
  return new TextEncoder().encode(pem);
}

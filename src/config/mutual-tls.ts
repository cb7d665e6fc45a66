import type { MutualTlsFiles } from "./sections.ts";

/**
 * Certificates and private key for mutual TLS, as PEM text: the contents of the files in
 * {@link MutualTlsFiles}.
 */
export interface MutualTls {
  /** Certificates of the authorities that must have issued the peer's certificate, PEM. */
  readonly ca: string;
  /** Certificate chain that this host presents, PEM. */
  readonly cert: string;
  /** Private key of the certificate in `cert`, PEM. */
  readonly key: string;
}

/**
 * Returns the names of the three files for mutual TLS, in the fields where {@link MutualTls} has
 * their contents. Returns undefined if any of the three names is missing. Stock Dragonfly ignores
 * an incomplete set too.
 */
export function mutualTlsFiles({ caCert, cert, key }: MutualTlsFiles): MutualTls | undefined {
  return caCert === undefined || cert === undefined || key === undefined
    ? undefined
    : { ca: caCert, cert, key };
}

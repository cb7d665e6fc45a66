import type { MutualTlsFiles } from "./sections.ts";

/** Credentials for mutual TLS: the contents of the three files in {@link MutualTlsFiles}. */
export interface MutualTls {
  /** Certificate authorities that must have issued the peer's certificate, PEM. */
  readonly ca: string;
  /** Certificate chain of this side, PEM. */
  readonly cert: string;
  /** Private key of `cert`, PEM. */
  readonly key: string;
}

/**
 * Returns the names of the three files for mutual TLS, in place of their contents. Returns
 * undefined unless all are set; like stock Dragonfly, it ignores an incomplete set.
 */
export function mutualTlsFiles({ caCert, cert, key }: MutualTlsFiles): MutualTls | undefined {
  return caCert === undefined || cert === undefined || key === undefined
    ? undefined
    : { ca: caCert, cert, key };
}

import type { MutualTlsFiles } from "./sections.ts";

/** The text of the files that a configuration names, where it names them all. */
export interface MutualTls {
  /** The certificate authorities that vouch for the other side, PEM. */
  readonly ca: string;
  /** The certificate chain to show, PEM. */
  readonly cert: string;
  /** Its private key, PEM. */
  readonly key: string;
}

/** The names of the files for mutual TLS. Undefined unless all are given: stock Dragonfly takes fewer for none. */
export function mutualTlsFiles({ caCert, cert, key }: MutualTlsFiles): MutualTls | undefined {
  return caCert === undefined || cert === undefined || key === undefined
    ? undefined
    : { ca: caCert, cert, key };
}

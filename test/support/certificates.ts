/** Certificates for TLS tests: authorities, and certificates that they issue. */
import { generate } from "selfsigned";
import type { TlsIdentity } from "../../src/transport/tls.ts";

const DAY = 86_400_000;

/** Names and validity period of a certificate. */
export interface CertificateOptions {
  /**
   * Subject alternative names: DNS names and IP addresses. Default: `localhost`, 127.0.0.1, ::1.
   */
  readonly names?: readonly string[];
  /** Start of the validity period, in days from now. Default: -1 (yesterday). */
  readonly from?: number;
  /** End of the validity period, in days from now. Default: 30. */
  readonly to?: number;
}

/** Certificate authority, which issues certificates for tests. */
export interface Authority {
  /** Certificate of the authority itself, in PEM form. */
  readonly cert: string;
  /**
   * Issues a certificate. Returns its key and its chain: the certificate, then the intermediate
   * authorities, without the root.
   */
  issue(options?: CertificateOptions): Promise<TlsIdentity>;
  /** Creates an intermediate authority whose certificate this authority signs. */
  intermediate(name: string): Promise<Authority>;
}

/** Creates a root certificate authority with a self-signed certificate. */
export async function authority(name: string): Promise<Authority> {
  return authorityOf(await makeCertificate(name, {}, true), []);
}

/** Creates a self-signed certificate with its key, which is not an authority. */
export function selfSignedCertificate(options: CertificateOptions = {}): Promise<TlsIdentity> {
  return makeCertificate("self-signed", options, false);
}

function authorityOf(own: TlsIdentity, chain: readonly string[]): Authority {
  return {
    cert: own.cert,
    async issue(options = {}) {
      const { cert, key } = await makeCertificate("peer", options, false, own);
      return { cert: [cert, ...chain].join(""), key };
    },
    async intermediate(name) {
      const next = await makeCertificate(name, {}, true, own);
      return authorityOf(next, [next.cert, ...chain]);
    },
  };
}

async function makeCertificate(
  name: string,
  { names = ["localhost", "127.0.0.1", "::1"], from = -1, to = 30 }: CertificateOptions,
  isAuthority: boolean,
  ca?: TlsIdentity,
): Promise<TlsIdentity> {
  const isAddress = (text: string): boolean => /^[\d.]+$|:/.test(text);
  const { cert, private: key } = await generate([{ name: "commonName", value: name }], {
    keyType: "ec",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() + from * DAY),
    notAfterDate: new Date(Date.now() + to * DAY),
    ...(ca && { ca }),
    extensions: isAuthority
      ? [
          { name: "basicConstraints", cA: true, critical: true },
          { name: "keyUsage", keyCertSign: true, critical: true },
        ]
      : [
          {
            name: "subjectAltName",
            altNames: names.map((each) =>
              isAddress(each) ? { type: 7, ip: each } : { type: 2, value: each },
            ),
          },
        ],
  });
  return { cert: `${cert.trim()}\n`, key: `${key.trim()}\n` };
}

/** Certificates for the tests of TLS: authorities, and what they sign. */
import { generate } from "selfsigned";
import type { TlsIdentity } from "../../src/transport/tls.ts";

const DAY = 86_400_000;

/** What a certificate says. */
export interface CertificateOptions {
  /** The DNS names and IP addresses that it is for. Default: `localhost` and the loopback addresses. */
  readonly names?: readonly string[];
  /** Days from now on which its validity begins and ends. Default: yesterday, and in thirty days. */
  readonly from?: number;
  readonly to?: number;
}

/** A certificate authority. */
export interface Authority {
  /** Its own certificate, PEM. */
  readonly cert: string;
  /** Signs a certificate. The chain begins with it, and holds the authorities between it and the root. */
  issue(options?: CertificateOptions): Promise<TlsIdentity>;
  /** An authority that this one vouches for. */
  intermediate(name: string): Promise<Authority>;
}

/** A new root authority. */
export async function authority(name: string): Promise<Authority> {
  return authorityOf(await make(name, {}, true), []);
}

/** A certificate that signed itself. */
export function selfSignedCertificate(options: CertificateOptions = {}): Promise<TlsIdentity> {
  return make("self-signed", options, false);
}

function authorityOf(own: TlsIdentity, chain: readonly string[]): Authority {
  return {
    cert: own.cert,
    async issue(options = {}) {
      const { cert, key } = await make("peer", options, false, own);
      return { cert: [cert, ...chain].join(""), key };
    },
    async intermediate(name) {
      const next = await make(name, {}, true, own);
      return authorityOf(next, [next.cert, ...chain]);
    },
  };
}

async function make(
  name: string,
  { names = ["localhost", "127.0.0.1", "::1"], from = -1, to = 30 }: CertificateOptions,
  signs: boolean,
  ca?: TlsIdentity,
): Promise<TlsIdentity> {
  const isAddress = (text: string): boolean => /^[\d.]+$|:/.test(text);
  const { cert, private: key } = await generate([{ name: "commonName", value: name }], {
    keyType: "ec",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() + from * DAY),
    notAfterDate: new Date(Date.now() + to * DAY),
    ...(ca && { ca }),
    extensions: signs
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

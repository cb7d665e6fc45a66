/** What all bindings share of TLS: identities, and what is checked of a peer's certificate. */
import { createHash, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { VortexError } from "../src/errors.ts";
import type { TlsClientOptions, TlsIdentity, TlsServerOptions } from "../src/transport/tls.ts";

/** The identity that the options name, or a new self-signed one. */
export async function serverIdentity(options: TlsServerOptions): Promise<TlsIdentity> {
  return identityOf(options) ?? selfSigned();
}

/** SHA-256 over the DER form of the first certificate in `pem`: upper-case hex with colons. */
export function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

/**
 * What the TLS inside a binding leaves to the application: pinned fingerprints, and addresses, which it would compare as names.
 * @throws `HandshakeFailed`
 */
export function checkCertificate(chain: readonly Uint8Array[] | null, options: TlsClientOptions, host: string): void {
  if (options.verify === false) return;
  const [leaf] = chain ?? [];
  if (leaf === undefined) throw new VortexError("HandshakeFailed", "the peer showed no certificate");
  const pins = pinsOf(options);
  if (pins !== undefined) {
    const found = createHash("sha256").update(leaf).digest("hex");
    if (!pins.includes(found)) {
      throw new VortexError("HandshakeFailed", `the peer's certificate has fingerprint ${found}, which is not pinned`);
    }
    return;
  }
  const name = options.serverName ?? host;
  const certificate = new X509Certificate(leaf);
  const valid = isIP(name) === 0 ? certificate.checkHost(name) : certificate.checkIP(name);
  if (valid === undefined) {
    const names = certificate.subjectAltName ?? "no name";
    throw new VortexError("HandshakeFailed", `the peer's certificate is for ${names}, not for ${name}`);
  }
}

/** The name to send and verify inside TLS; addresses are no names there (RFC 6066, section 3). */
export function serverNameOf(options: TlsClientOptions, host: string): string | undefined {
  const name = options.serverName ?? host;
  return isIP(name) === 0 ? name : undefined;
}

/**
 * The certificate and key of the options.
 * @throws `InvalidArgument` for one without the other
 */
export function identityOf({ cert, key }: { readonly cert?: string; readonly key?: string }): TlsIdentity | undefined {
  if ((cert === undefined) !== (key === undefined)) {
    throw new VortexError("InvalidArgument", "tls.cert and tls.key: expected both or neither");
  }
  return cert === undefined || key === undefined ? undefined : { cert, key };
}

/**
 * The pinned fingerprints of the options, lower-case hex without colons; undefined when none are given.
 * @throws `InvalidArgument` for what is no fingerprint
 */
export function pinsOf({ fingerprints }: TlsClientOptions): string[] | undefined {
  if (fingerprints === undefined) return undefined;
  const pins = fingerprints.map((pin) => pin.replaceAll(":", "").toLowerCase());
  const wrong = pins.findIndex((pin) => !/^[0-9a-f]{64}$/.test(pin));
  if (wrong >= 0 || pins.length === 0) {
    throw new VortexError(
      "InvalidArgument",
      `tls.fingerprints ${JSON.stringify(fingerprints[wrong] ?? [])}: expected SHA-256 fingerprints, 64 hex digits each`,
    );
  }
  return pins;
}

/** A new self-signed identity, for the names `d7y`, as stock peers have it, and `localhost`. */
export async function selfSigned(): Promise<TlsIdentity> {
  // Loaded here, since clients and servers with a certificate of their own do without it.
  const { generate } = await import("selfsigned");
  const days = 86_400_000;
  const { cert, private: key } = await generate([{ name: "commonName", value: "vortex-peer" }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() - days),
    notAfterDate: new Date(Date.now() + 3650 * days),
    extensions: [
      {
        name: "subjectAltName",
        altNames: [
          { type: 2, value: "d7y" },
          { type: 2, value: "localhost" },
          { type: 7, ip: "127.0.0.1" },
          { type: 7, ip: "::1" },
        ],
      },
    ],
  });
  return { cert, key };
}

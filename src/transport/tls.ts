import { anyText, type Checks, implementing, listOf, oneOf, text } from "../arguments.ts";
/**
 * TLS options of a client. By default, the server's certificate must be valid for its host name,
 * and issued by a certificate authority that the runtime trusts.
 */
export interface TlsClientOptions {
  /**
   * Certificates of the authorities to trust in place of those that the runtime trusts, PEM.
   * Default: the authorities of the runtime.
   */
  readonly ca?: string | undefined;
  /**
   * SHA-256 fingerprints in hex, with or without colons. The server's own certificate must match
   * one of them. With this option, host name, issuer and validity period are not checked. Default:
   * fingerprints are not checked.
   */
  readonly fingerprints?: readonly string[] | undefined;
  /**
   * False to accept any server certificate, like stock Dragonfly clients. An on-path attacker can
   * then impersonate the server. Default: the certificate is verified.
   */
  readonly verify?: false | undefined;
  /**
   * Host name that the client sends in the SNI extension, and for which the server's certificate
   * must be valid. Default: the host that the client dials.
   */
  readonly serverName?: string | undefined;
  /**
   * Certificate chain that the client presents if the server requests it, PEM. Requires `key`.
   * Default: no client certificate.
   */
  readonly cert?: string | undefined;
  /** Private key of the certificate in `cert`, PEM. */
  readonly key?: string | undefined;
}

/**
 * Returns true if the options authenticate the server or the client: `ca`, `fingerprints` or `cert`
 * is set. A transport without TLS must then not replace a transport with TLS.
 */
export function requiresTrust({ ca, fingerprints, cert }: TlsClientOptions): boolean {
  return [ca, fingerprints, cert].some((option) => option !== undefined);
}

/**
 * Returns true if `ca` or `fingerprints` is set. The peer then has a known certificate, so it runs
 * this library. A stock dfdaemon cannot match, because it creates a new self-signed certificate at
 * each start.
 */
export function identifiesPeer({ ca, fingerprints }: TlsClientOptions): boolean {
  return ca !== undefined || fingerprints !== undefined;
}

/** Certificate of a server and its private key. */
export interface TlsIdentity {
  /** Certificate chain, PEM. The certificate of the server itself comes first. */
  readonly cert: string;
  /** Private key of the first certificate in `cert`, PEM. */
  readonly key: string;
}

/**
 * Persistent storage for the self-signed certificate of a server and its key. It makes the
 * certificate survive restarts of the server, so that clients can pin it.
 */
export interface IdentityStore {
  /**
   * Resolves to the identity that was saved last, or to undefined if none was saved. Rejects with
   * `StorageFailed` if the storage cannot be read.
   */
  load(): Promise<TlsIdentity | undefined>;
  /**
   * Replaces the stored identity by `identity` atomically. Rejects with `StorageFailed` if the
   * storage cannot be written; the previous identity must then be intact.
   */
  save(identity: TlsIdentity): Promise<void>;
  /**
   * Saves `identity` atomically, but only if the storage is empty. Resolves to the identity that is
   * stored afterwards. Servers that start at the same time thereby use the same certificate.
   * Rejects with `StorageFailed` if the storage cannot be read or written.
   *
   * If the method is absent, {@link save} is called instead. Servers that start at the same time
   * may then use different certificates.
   */
  saveFirst?(identity: TlsIdentity): Promise<TlsIdentity>;
}

/** TLS options of a server. */
export interface TlsServerOptions {
  /**
   * Certificate chain that the server presents, PEM. Requires `key`. Default: a self-signed
   * certificate.
   */
  readonly cert?: string | undefined;
  /** Private key of the certificate in `cert`, PEM. */
  readonly key?: string | undefined;
  /**
   * Storage for the self-signed certificate. It cannot be combined with `cert`. A stored
   * certificate that expires within a day is replaced. Default: none, so the server creates a new
   * certificate at each start.
   */
  readonly identityStore?: IdentityStore | undefined;
  /**
   * Certificates of the authorities that may issue client certificates, PEM. With this option, each
   * client must present a certificate from one of them. Default: clients need no certificate.
   */
  readonly clientCa?: string | undefined;
}

/** Check of each field of {@link TlsClientOptions}; a failed one throws `InvalidArgument`. */
export const tlsClientChecks: Checks<TlsClientOptions> = {
  ca: anyText,
  fingerprints: listOf(anyText),
  verify: oneOf(false, true),
  serverName: text,
  cert: anyText,
  key: anyText,
};

/** Check of each field of {@link TlsServerOptions}; a failed one throws `InvalidArgument`. */
export const tlsServerChecks: Checks<TlsServerOptions> = {
  cert: anyText,
  key: anyText,
  identityStore: implementing("an identity store", "load", "save"),
  clientCa: anyText,
};

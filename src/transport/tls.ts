/**
 * TLS options of a client. By default, the peer's certificate must be valid for its host name and
 * issued by a certificate authority that the runtime trusts.
 */
export interface TlsClientOptions {
  /** Certificate authorities to trust instead of the runtime's, PEM. Default: the runtime's. */
  readonly ca?: string;
  /**
   * SHA-256 fingerprints of acceptable leaf certificates, hex with or without colons. One must
   * match; host name, issuer and validity are then not checked. Default: none.
   */
  readonly fingerprints?: readonly string[];
  /**
   * `false` accepts any certificate, like stock Dragonfly clients. An on-path attacker can then
   * impersonate the peer. Default: certificates are verified.
   */
  readonly verify?: false;
  /** Name for SNI, for which the certificate must be valid. Default: the dialled host. */
  readonly serverName?: string;
  /** Client certificate chain, PEM, for servers that request one. Requires `key`. Default: none. */
  readonly cert?: string;
  /** Private key of `cert`, PEM. */
  readonly key?: string;
}

/**
 * Returns true if the options require authentication of the peer or of this client. If so, a
 * transport without TLS must not replace one with TLS.
 */
export function requiresTrust({ ca, fingerprints, cert }: TlsClientOptions): boolean {
  return [ca, fingerprints, cert].some((option) => option !== undefined);
}

/**
 * Returns true if the options accept only known certificates, so only peers that run this library.
 * A stock dfdaemon cannot match: it creates a new self-signed certificate at each start.
 */
export function identifiesPeer({ ca, fingerprints }: TlsClientOptions): boolean {
  return ca !== undefined || fingerprints !== undefined;
}

/** Certificate chain and its private key. */
export interface TlsIdentity {
  /** Certificate chain, PEM, the leaf certificate first. */
  readonly cert: string;
  /** Private key of the certificate, PEM. */
  readonly key: string;
}

/**
 * Persistent storage for the self-signed identity of a server. It lets clients pin a certificate
 * across restarts of the server.
 */
export interface IdentityStore {
  /**
   * Loads the identity saved last; resolves to undefined if there is none. Rejects with
   * `StorageFailed`.
   */
  load(): Promise<TlsIdentity | undefined>;
  /**
   * Saves the identity in place of the previous one, atomically. When it rejects with
   * `StorageFailed`, the previous one must be intact.
   */
  save(identity: TlsIdentity): Promise<void>;
  /**
   * Saves the identity only if there is none yet, atomically. Resolves to the identity in the store
   * afterwards, so servers that start at the same time agree on one. Rejects with `StorageFailed`.
   * Absent: `save` is called instead, and such servers may use different certificates.
   */
  saveFirst?(identity: TlsIdentity): Promise<TlsIdentity>;
}

/** TLS options of a server. */
export interface TlsServerOptions {
  /** Certificate chain, PEM. Requires `key`. Default: a self-signed certificate. */
  readonly cert?: string;
  /** Private key of `cert`, PEM. */
  readonly key?: string;
  /**
   * Store for the self-signed identity; excludes `cert`. An identity that expires within a day is
   * replaced. Default: none, so each start creates a new identity.
   */
  readonly identityStore?: IdentityStore;
  /**
   * Certificate authorities for client certificates, PEM. Clients must then present a certificate
   * that one of them issued. Default: no client certificates.
   */
  readonly clientCa?: string;
}

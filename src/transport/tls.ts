/**
 * How a client makes sure whom it talks to. Without any of these, the certificate must be valid for the peer's host and
 * come from one of the certificate authorities of the runtime.
 */
export interface TlsClientOptions {
  /** Certificate authorities to trust instead of the runtime's, PEM. Default: the runtime's. */
  readonly ca?: string;
  /** SHA-256 fingerprints of the peer's own certificate, hex with or without colons; one must match, and nothing else counts. Default: none. */
  readonly fingerprints?: readonly string[];
  /** `false` accepts any certificate, as stock Dragonfly clients do. Whoever is on the path can then pose as the peer. Default: verified. */
  readonly verify?: false;
  /** The name that the certificate must be valid for, also sent to the peer. Default: the host that is dialled. */
  readonly serverName?: string;
  /** A client certificate chain, PEM, for servers that ask for one; `key` goes with it. Default: none. */
  readonly cert?: string;
  /** Private key of `cert`, PEM. */
  readonly key?: string;
}

/** Whether a client asks for more than that bytes arrive, so that nothing without TLS may stand in. */
export function namesTrust({ ca, fingerprints, cert }: TlsClientOptions): boolean {
  return [ca, fingerprints, cert].some((option) => option !== undefined);
}

/**
 * Whether the options identify peers of this library. No stock dfdaemon can meet them: it makes a new self-signed certificate
 * at each start.
 */
export function identifiesPeer({ ca, fingerprints }: TlsClientOptions): boolean {
  return ca !== undefined || fingerprints !== undefined;
}

/** A certificate chain and its private key, PEM. */
export interface TlsIdentity {
  /** Certificate chain, PEM, its own certificate first. */
  readonly cert: string;
  /** Private key of the certificate, PEM. */
  readonly key: string;
}

/** Keeps the identity that a server made for itself, so that clients that pinned it know the server again. */
export interface IdentityStore {
  /** What was saved last; undefined when there is nothing. Rejects with `StorageFailed`. */
  load(): Promise<TlsIdentity | undefined>;
  /** Keeps this identity in place of the one before: all of it or, when it rejects with `StorageFailed`, nothing of it. */
  save(identity: TlsIdentity): Promise<void>;
  /**
   * Keeps this identity if there is none, in one step, and resolves to the one that is kept then: several servers that start at the
   * same time show one certificate that way. Absent: `save` is called, and each of them may show its own. Rejects with
   * `StorageFailed`.
   */
  saveFirst?(identity: TlsIdentity): Promise<TlsIdentity>;
}

/** What a server shows of itself, and asks for. */
export interface TlsServerOptions {
  /** Certificate chain, PEM. Without it the server makes a self-signed one and tells its fingerprint. */
  readonly cert?: string;
  /** Private key of the certificate, PEM. */
  readonly key?: string;
  /**
   * Where the self-signed identity is kept; not together with `cert`. One that ends within a day is made anew. Default: nowhere,
   * so each start makes another.
   */
  readonly identityStore?: IdentityStore;
  /** Certificate authorities that clients' certificates must come from, PEM. Without it clients need none. */
  readonly clientCa?: string;
}

/** Default maximum number of peers in a {@link SessionCache}. */
const DEFAULT_CAPACITY = 1024;
/**
 * Maximum length of a serialised TLS session, in bytes. A session ticket that contains a
 * certificate chain has a few KiB.
 */
const MAX_SESSION_BYTES = 64 * 1024;

/**
 * Cache of TLS sessions by peer address, for session resumption and 0-RTT (RFC 8446, section 2.2).
 * When it is full, evicts the least recently stored session.
 *
 * Clients with different trust options must use different caches. A resumed handshake does not
 * verify the peer's certificate, so an earlier handshake with the same options must have verified
 * it.
 *
 * Each session is used once, because an observer could link connections that use the same session
 * ticket (RFC 8446, appendix C.4). The peer sends new sessions on each connection.
 */
export class SessionCache {
  readonly #capacity: number;
  /** Sessions by peer address, the least recently stored session first. */
  readonly #sessions = new Map<string, Uint8Array>();

  /** @param capacity maximum number of peers, at least 1. Default 1,024 */
  constructor(capacity: number = DEFAULT_CAPACITY) {
    this.#capacity = capacity;
  }

  /**
   * Stores the TLS session of a peer, in place of an earlier session with that peer. If the cache
   * is full, evicts the least recently stored session. Ignores empty sessions and sessions over 64
   * KiB.
   */
  put(addr: string, session: Uint8Array): void {
    if (session.length === 0 || session.length > MAX_SESSION_BYTES) return;
    this.#sessions.delete(addr);
    this.#sessions.set(addr, session);
    if (this.#sessions.size <= this.#capacity) return;
    const [oldest] = this.#sessions.keys();
    if (oldest !== undefined) this.#sessions.delete(oldest);
  }

  /**
   * Removes the session of a peer from the cache and returns it. Returns undefined if the cache has
   * no session for the peer.
   */
  take(addr: string): Uint8Array | undefined {
    const session = this.#sessions.get(addr);
    this.#sessions.delete(addr);
    return session;
  }
}

/** Default number of peers in a {@link SessionCache}. */
const DEFAULT_CAPACITY = 1024;
/**
 * Maximum length of a session, in bytes. A ticket that contains a certificate chain has a few KiB.
 */
const MAX_SESSION_BYTES = 64 * 1024;

/**
 * LRU cache of TLS sessions by peer, for 0-RTT (RFC 8446, section 2.2).
 *
 * A cache must only be used with one set of trust options. A resumed session skips certificate
 * verification, because the peer was verified when the session was established.
 *
 * Each session is used once: reuse would let an observer link the connections of a client (RFC
 * 8446, appendix C.4). Each connection supplies new sessions.
 */
export class SessionCache {
  readonly #capacity: number;
  /** Sessions by address, the least recently stored first. */
  readonly #sessions = new Map<string, Uint8Array>();

  /** @param capacity maximum number of peers, at least 1; default 1,024 */
  constructor(capacity: number = DEFAULT_CAPACITY) {
    this.#capacity = capacity;
  }

  /**
   * Stores a session of the peer in place of an earlier one. Evicts the least recently stored
   * session beyond the capacity. Ignores empty sessions and those over 64 KiB.
   */
  put(addr: string, session: Uint8Array): void {
    if (session.length === 0 || session.length > MAX_SESSION_BYTES) return;
    this.#sessions.delete(addr);
    this.#sessions.set(addr, session);
    if (this.#sessions.size <= this.#capacity) return;
    const [oldest] = this.#sessions.keys();
    if (oldest !== undefined) this.#sessions.delete(oldest);
  }

  /** Removes and returns the session of the peer; undefined if there is none. */
  take(addr: string): Uint8Array | undefined {
    const session = this.#sessions.get(addr);
    this.#sessions.delete(addr);
    return session;
  }
}

/** Peers whose sessions are remembered by default. */
const CAPACITY = 1024;
/** Greatest length of a session, in bytes; a ticket with a certificate chain inside it has a few KiB. */
const MAX_SESSION = 64 * 1024;

/**
 * The sessions of the peers that a transport has met, for 0-RTT (RFC 8446, section 2.2). One cache belongs to one way of
 * authenticating peers: whoever a session was made with has been authenticated so, and is not shown a certificate again.
 *
 * A session is handed out once, since using it twice lets a watcher see that both connections are the same client's (RFC 8446,
 * appendix C.4); each connection brings new ones. The peers met longest ago are forgotten first.
 */
export class SessionCache {
  readonly #capacity: number;
  /** By address; the one met longest ago first. */
  readonly #sessions = new Map<string, Uint8Array>();

  /** @param capacity peers to remember, at least 1; default 1,024 */
  constructor(capacity: number = CAPACITY) {
    this.#capacity = capacity;
  }

  /** Remembers a session with the peer; the latest one counts. */
  put(addr: string, session: Uint8Array): void {
    if (session.length === 0 || session.length > MAX_SESSION) return;
    this.#sessions.delete(addr);
    this.#sessions.set(addr, session);
    if (this.#sessions.size <= this.#capacity) return;
    const [oldest] = this.#sessions.keys();
    if (oldest !== undefined) this.#sessions.delete(oldest);
  }

  /** The session with the peer, which is not handed out again. */
  take(addr: string): Uint8Array | undefined {
    const session = this.#sessions.get(addr);
    this.#sessions.delete(addr);
    return session;
  }
}

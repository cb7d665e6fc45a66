/**
 * Time in ms after which an idle socket of a client is closed. A server sends a FIN after 30 s, so
 * that a request on the socket would fail.
 */
export const PARKED_MS = 25_000;

/**
 * State of a socket of a client:
 *
 * - `parked`: no exchange uses the socket. Its peer must neither send a byte nor end its direction.
 * - `taken`: an exchange uses the socket.
 * - `closed`: the socket is not used any more. Terminal.
 */
type SocketState = "parked" | "taken" | "closed";

interface KeptSocket {
  state: SocketState;
  /** Number of completed exchanges on the socket. */
  exchanges: number;
  /** True if a byte has arrived in the current exchange, or arrived in the last one. */
  answered: boolean;
  /** True once the peer has ended its direction, or the socket has failed. */
  ended: boolean;
  /** Time at which the socket was parked, in ms. */
  parkedAt: number;
}

/** Action that the caller must execute on a socket after an event. */
export type SocketAction = "none" | "park" | "close";

/**
 * State machine of the sockets that a client has to one peer, for protocols whose sockets carry one
 * exchange after another. It decides which socket carries the next exchange: the one parked last,
 * within {@link PARKED_MS}. It performs no I/O and has no clock. The caller reports events, and
 * executes the returned actions.
 *
 * A FIN or a byte makes a parked socket unusable. A socket is closed after an exchange that did not
 * end with its whole response. A peer that closes its first socket after one response is remembered
 * (dfdaemon up to 1.5.6), and no socket to it is parked again. A peer that has answered twice on a
 * socket is never taken for one of those.
 */
export class KeptSockets<S extends object> {
  readonly #sockets = new WeakMap<S, KeptSocket>();
  /** Parked sockets. The one parked last comes last, and is used first. */
  readonly #parked: S[] = [];
  /** Undefined until the peer has shown whether it closes a socket after one response. */
  #peerKeeps: boolean | undefined;

  /** False once the peer has closed a socket after one response. */
  get peerKeeps(): boolean {
    return this.#peerKeeps !== false;
  }

  /** Number of parked sockets. */
  get parked(): number {
    return this.#parked.length;
  }

  /** Adds a new socket that carries an exchange at once. */
  open(socket: S): void {
    this.#add(socket, "taken", 0);
  }

  /** Adds a new socket that carries no exchange yet. */
  openParked(socket: S, now: number): void {
    this.#add(socket, "parked", now);
    this.#parked.push(socket);
  }

  /**
   * Returns the socket that was parked last, for a new exchange. Returns undefined if none is
   * parked. Call {@link expire} first.
   */
  take(): S | undefined {
    const socket = this.#parked.pop();
    const kept = socket && this.#sockets.get(socket);
    if (kept === undefined) return undefined;
    kept.state = "taken";
    kept.answered = false;
    return socket;
  }

  /**
   * True if an earlier exchange used the socket, and no byte of the current response has arrived.
   * If the socket fails then, the peer may have closed it before the request arrived. So the
   * exchange may be repeated on a new socket.
   */
  isStale(socket: S): boolean {
    const kept = this.#sockets.get(socket);
    return kept !== undefined && kept.exchanges > 0 && !kept.answered;
  }

  /** Handles bytes that have arrived on a socket. */
  received(socket: S): SocketAction {
    const kept = this.#sockets.get(socket);
    if (kept?.state === "parked") return this.#close(socket, kept);
    if (kept?.state !== "taken" || kept.answered) return "none";
    kept.answered = true;
    if (kept.exchanges > 0) this.#peerKeeps = true;
    return "none";
  }

  /** Handles the end of the peer's direction of a socket, or the failure of the socket. */
  ended(socket: S): SocketAction {
    const kept = this.#sockets.get(socket);
    if (kept === undefined || kept.state === "closed") return "none";
    kept.ended = true;
    if (kept.state === "taken" && kept.answered) return "none";
    this.#learn(kept);
    return kept.state === "parked" ? this.#close(socket, kept) : "none";
  }

  /**
   * Ends the exchange on a socket after its whole response. Parks the socket, unless it has unread
   * bytes, has ended, or the peer does not keep sockets.
   *
   * @param unread number of received bytes after the response
   * @param now current time in ms
   */
  release(socket: S, unread: number, now: number): SocketAction {
    const kept = this.#sockets.get(socket);
    if (kept?.state !== "taken") return "none";
    kept.exchanges++;
    if (kept.ended) this.#learn(kept);
    if (!kept.answered || kept.ended || unread > 0 || !this.peerKeeps)
      return this.#close(socket, kept);
    kept.state = "parked";
    kept.parkedAt = now;
    this.#parked.push(socket);
    return "park";
  }

  /** Removes a socket that was closed, for example since its exchange was aborted. */
  drop(socket: S): void {
    const kept = this.#sockets.get(socket);
    if (kept !== undefined) this.#close(socket, kept);
  }

  /** Removes the sockets that have been parked for {@link PARKED_MS}. The caller closes them. */
  expire(now: number): S[] {
    const fresh = this.#parked.findIndex((socket) => now < this.#expiryOf(socket));
    const expired = this.#parked.slice(0, fresh < 0 ? this.#parked.length : fresh);
    for (const socket of expired) this.drop(socket);
    return expired;
  }

  /** Time in ms at which the next parked socket expires. Undefined if none is parked. */
  get nextExpiry(): number | undefined {
    const [first] = this.#parked;
    return first && this.#expiryOf(first);
  }

  #add(socket: S, state: SocketState, parkedAt: number): void {
    this.#sockets.set(socket, { state, exchanges: 0, answered: false, ended: false, parkedAt });
  }

  #expiryOf(socket: S): number {
    return (this.#sockets.get(socket)?.parkedAt ?? 0) + PARKED_MS;
  }

  #close(socket: S, kept: KeptSocket): "close" {
    kept.state = "closed";
    const index = this.#parked.lastIndexOf(socket);
    if (index >= 0) this.#parked.splice(index, 1);
    return "close";
  }

  /** Remembers a peer that ends a socket after one response. */
  #learn({ exchanges }: KeptSocket): void {
    if (exchanges === 1) this.#peerKeeps ??= false;
  }
}

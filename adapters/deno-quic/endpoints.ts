import { nativeError } from "../shared/native-error.ts";
import {
  afterFirstFlight,
  collectSocketsSoon,
  type DenoQuic,
  type NativeEndpoint,
} from "./native.ts";

/**
 * Maximum number of endpoints that are kept without a connection, for the TLS sessions that they
 * store.
 */
const MAX_IDLE_ENDPOINTS = 64;

/**
 * Pool of UDP sockets ("endpoints" in Deno) for outgoing connections. Each connection has a
 * separate endpoint, so it does not share the socket's buffers with others.
 *
 * Deno stores the TLS sessions for 0-RTT in the endpoint, by server name instead of address. So an
 * endpoint whose connection has ended is kept, and reused only for the same peer. Above
 * {@link MAX_IDLE_ENDPOINTS}, the least recently used endpoint is released.
 */
export class ClientEndpoints {
  readonly #quic: DenoQuic;
  /** Endpoints without a connection, by the key of their peer; the least recently used first. */
  readonly #idle = new Map<string, NativeEndpoint>();
  #closed = false;

  constructor(quic: DenoQuic) {
    this.#quic = quic;
  }

  /**
   * Returns the endpoint last used for `key`, or a new endpoint if the pool has none for `key`.
   * Returns undefined if the program may not create sockets itself, because `--allow-net` lists
   * certain hosts only. Then Deno creates the socket when it connects.
   *
   * @param key identifies the peer and the ALPN offer
   * @param family IP version of a new endpoint
   * @throws `Unreachable` if the UDP socket cannot be created
   */
  take(key: string, family: 4 | 6): NativeEndpoint | undefined {
    const known = this.#idle.get(key);
    if (known !== undefined) {
      this.#idle.delete(key);
      return known;
    }
    try {
      return new this.#quic.QuicEndpoint({ hostname: family === 4 ? "0.0.0.0" : "::", port: 0 });
    } catch (error) {
      if (error instanceof Error && error.name === "NotCapable") return undefined;
      throw nativeError(error, "Unreachable", "cannot open a UDP socket");
    }
  }

  /**
   * Returns an endpoint to the pool after its connection has ended. Releases the endpoint instead
   * if the pool is closed or already has an endpoint for `key`.
   */
  put(key: string, endpoint: NativeEndpoint): void {
    if (this.#closed || this.#idle.has(key)) {
      release(endpoint);
      return;
    }
    this.#idle.set(key, endpoint);
    if (this.#idle.size <= MAX_IDLE_ENDPOINTS) return;
    const [oldest] = this.#idle;
    if (oldest === undefined) return;
    this.#idle.delete(oldest[0]);
    release(oldest[1]);
  }

  /**
   * Closes the pool and releases all endpoints in it. An endpoint that is returned later is
   * released at once.
   */
  close(): void {
    this.#closed = true;
    for (const endpoint of this.#idle.values()) release(endpoint);
    this.#idle.clear();
  }
}

/** Closes an endpoint with its connections, and frees its UDP socket. */
export function release(endpoint: NativeEndpoint): void {
  afterFirstFlight(() => {
    endpoint.close({ closeCode: 0, reason: "" });
    collectSocketsSoon();
  });
}

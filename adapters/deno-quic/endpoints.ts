import { nativeError } from "../shared/native-error.ts";
import {
  afterFirstFlight,
  collectSocketsSoon,
  type DenoQuic,
  type NativeEndpoint,
} from "./native.ts";

/** Maximum number of idle endpoints kept for the sessions in them. */
const MAX_IDLE_ENDPOINTS = 64;

/**
 * Pool of client endpoints. Each connection has a separate one, and so the socket buffers to
 * itself.
 *
 * Deno stores the sessions for 0-RTT in the endpoint, by server name instead of address. So an
 * endpoint is kept for the peer that was dialled on it. The least recently used ones are evicted.
 */
export class ClientEndpoints {
  readonly #quic: DenoQuic;
  /** Endpoints without a connection, by peer; the least recently used first. */
  readonly #idle = new Map<string, NativeEndpoint>();
  #closed = false;

  constructor(quic: DenoQuic) {
    this.#quic = quic;
  }

  /**
   * Returns an endpoint for a connection: the one last used for `key`, or a new one. Undefined
   * where only Deno itself may create sockets (`--allow-net` with a list of hosts).
   *
   * @param key identifies the peer and the way of dialling it
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

  /** Returns an endpoint to the pool after its connection has ended. */
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

  /** Releases all idle endpoints. Later ones are released when they are returned. */
  close(): void {
    this.#closed = true;
    for (const endpoint of this.#idle.values()) release(endpoint);
    this.#idle.clear();
  }
}

/** Closes an endpoint with its connections, and frees its socket. */
export function release(endpoint: NativeEndpoint): void {
  afterFirstFlight(() => {
    endpoint.close({ closeCode: 0, reason: "" });
    collectSocketsSoon();
  });
}

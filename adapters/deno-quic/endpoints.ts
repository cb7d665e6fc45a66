import { nativeError } from "../shared/native-error.ts";
import {
  afterFirstFlight,
  collectSocketsSoon,
  type DenoQuic,
  type NativeEndpoint,
} from "./native.ts";

/** Sockets without a connection that are kept, for the sessions of their peers. */
const CAPACITY = 64;

/**
 * The sockets that a client dials on, one for each connection, so that each has the system's buffers to itself. Deno keeps the
 * sessions for 0-RTT in them, by the name of the server and not by its address. So a socket is kept for the peer that was
 * dialled on it; those not used for longest are given up first.
 */
export class ClientEndpoints {
  readonly #quic: DenoQuic;
  /** Without a connection, by peer; the one used longest ago first. */
  readonly #idle = new Map<string, NativeEndpoint>();
  #closed = false;

  constructor(quic: DenoQuic) {
    this.#quic = quic;
  }

  /**
   * A socket for a connection to `peer`, the one it was dialled on before if there is one; undefined where only Deno itself may
   * make one (`--allow-net` with a list of hosts).
   *
   * @param key what tells one peer, and way of dialling it, from another
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
      throw nativeError(error, "Unreachable", "there is no UDP socket to be had");
    }
  }

  /** Gives a socket back whose connection has ended. */
  put(key: string, endpoint: NativeEndpoint): void {
    if (this.#closed || this.#idle.has(key)) {
      release(endpoint);
      return;
    }
    this.#idle.set(key, endpoint);
    if (this.#idle.size <= CAPACITY) return;
    const [oldest] = this.#idle;
    if (oldest === undefined) return;
    this.#idle.delete(oldest[0]);
    release(oldest[1]);
  }

  /** Frees the sockets that are kept, and keeps none from then on. */
  close(): void {
    this.#closed = true;
    for (const endpoint of this.#idle.values()) release(endpoint);
    this.#idle.clear();
  }
}

/** Ends what goes on on a socket, and frees it. */
export function release(endpoint: NativeEndpoint): void {
  afterFirstFlight(() => {
    endpoint.close({ closeCode: 0, reason: "" });
    collectSocketsSoon();
  });
}

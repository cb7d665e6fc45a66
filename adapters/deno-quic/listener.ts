import { VortexError } from "../../src/errors.ts";
import type { Timer } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import {
  type Connection,
  type Listener,
  type ListenerCounters,
  StreamCode,
} from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { isLoopback } from "../shared/local-address.ts";
import { listenError, systemCode } from "../shared/native-error.ts";
import { fingerprintOf, requireIdentity } from "../shared/tls.ts";
import { DenoQuicConnection } from "./connection.ts";
import {
  afterLastFlight,
  collectSockets,
  collectSocketsSoon,
  type DenoQuic,
  type NativeConn,
  type NativeEndpoint,
  type NativeIncoming,
  type NativeListener,
} from "./native.ts";
import {
  type DenoQuicSettings,
  nativeSettings,
  STOCK_PROTOCOLS,
  VORTEX_PROTOCOLS,
} from "./options.ts";

/**
 * Maximum number of half-open connections, whose handshake is not complete. At the limit,
 * connection attempts are ignored, and the clients retransmit them.
 */
const MAX_HALF_OPEN = 4096;
/**
 * Time in ms for which a closed listener still refuses connection attempts. Without a refusal, the
 * clients would wait for their timeouts.
 */
const REFUSAL_PERIOD_MS = 10_000;
/**
 * Interval in ms between attempts to bind an address whose previous socket this process has not
 * freed yet.
 */
const BIND_RETRY_INTERVAL_MS = 50;
/**
 * Maximum time in ms for which binding an address is retried. After a close, quinn keeps the socket
 * until the last connection on it has ended.
 */
const BIND_RETRY_TIMEOUT_MS = 5_000;

/** Dependencies and limits of a {@link DenoQuicListener}. */
export interface ListenerContext {
  readonly quic: DenoQuic;
  readonly settings: DenoQuicSettings;
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly earlyData: boolean;
  /** Certificate and private key that the listener starts with. */
  readonly identity: TlsIdentity;
  /** Receives the exceptions that event callbacks of the listener and its connections throw. */
  readonly onError: ((error: VortexError) => void) | undefined;
}

/**
 * Closed endpoints that still refuse connection attempts. Maps the local address to a function that
 * gives up the references to the endpoint, so that its socket can be freed.
 */
const refusingEndpoints = new Map<string, () => void>();
/**
 * Local addresses of closed listeners in this process. Their sockets stay open until a garbage
 * collection.
 */
const releasedAddresses = new Set<string>();

/**
 * Binds a UDP socket to `local` and returns a listener that accepts QUIC connections on it.
 *
 * Rejects with `AddressInUse` if the address cannot be bound, and with `Unreachable` if the host
 * name cannot be resolved. Rejects with `InvalidArgument` if the certificate is unusable.
 */
export async function listenDenoQuic(context: ListenerContext, local: Address): Promise<Listener> {
  const endpoint = await createEndpoint(context.quic, local);
  try {
    return new DenoQuicListener(context, endpoint, local.host);
  } catch (error) {
    endpoint.close({ closeCode: StreamCode.None, reason: "" });
    throw error;
  }
}

/**
 * Creates a UDP socket that is bound to `local`. Deno frees the socket of a closed listener only by
 * garbage collection. If such a socket of this process occupies the address, forces a collection
 * and retries for up to {@link BIND_RETRY_TIMEOUT_MS}. Other failures throw at once.
 */
async function createEndpoint(quic: DenoQuic, local: Address): Promise<NativeEndpoint> {
  const addr = formatAddress(local);
  const until = performance.now() + BIND_RETRY_TIMEOUT_MS;
  for (;;) {
    try {
      return new quic.QuicEndpoint({ hostname: local.host, port: local.port });
    } catch (error) {
      refusingEndpoints.get(addr)?.();
      const free =
        systemCode(error) === "EADDRINUSE" &&
        releasedAddresses.has(addr) &&
        performance.now() < until;
      if (!free) throw bindError(error, addr);
      collectSockets();
      await new Promise((resolve) => {
        setTimeout(resolve, BIND_RETRY_INTERVAL_MS);
      });
    }
  }
}

function bindError(error: unknown, addr: string): VortexError {
  if (error instanceof Error && error.message.startsWith("failed to lookup")) {
    return VortexError.from(error, "Unreachable", `cannot resolve ${addr}`);
  }
  return listenError(error, addr);
}

class DenoQuicListener implements Listener {
  readonly address: Address;
  readonly #context: ListenerContext;
  readonly #guard: Guard;
  /**
   * Endpoint that accepts connections. Undefined after `close`, since a reference to it keeps the
   * socket open.
   */
  #endpoint: NativeEndpoint | undefined;
  /**
   * All listeners of Deno on the endpoint, one for each certificate so far. Only the first accepts
   * connections. None may be garbage-collected, since that would end listening.
   */
  readonly #nativeListeners: NativeListener[] = [];
  readonly #incoming = new AsyncQueue<Connection>();
  readonly #connections = new Set<DenoQuicConnection>();
  /** Connections that were passed to the application. */
  readonly #delivered = new Set<DenoQuicConnection>();
  #fingerprint = "";
  #halfOpen = 0;
  #open = 0;
  #closing: Promise<void> | undefined;

  constructor(context: ListenerContext, endpoint: NativeEndpoint, host: string) {
    this.#context = context;
    this.#guard = new Guard({ onError: context.onError });
    this.#endpoint = endpoint;
    this.address = { host, port: endpoint.addr.port };
    releasedAddresses.delete(formatAddress(this.address));
    const native = this.#listenWith(context.identity);
    this.#guard.run(() => this.#acceptConnections(native));
  }

  get fingerprint(): string {
    return this.#fingerprint;
  }

  /**
   * Counters of this listener. Only `caught` is counted; the others are 0, as the runtime does not
   * expose its UDP socket.
   */
  get counters(): ListenerCounters {
    return { unanswerable: 0, unsent: 0, caught: this.#guard.caught };
  }

  async setIdentity(identity: TlsIdentity): Promise<void> {
    this.#listenWith(requireIdentity(identity));
  }

  accept(): AsyncIterable<Connection> {
    return this.#incoming;
  }

  close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options);
    return this.#closing;
  }

  async #close(options: { readonly grace?: number }): Promise<void> {
    this.#incoming.end();
    await Promise.all(
      [...this.#connections].map((each) =>
        this.#delivered.has(each) ? each.close(options) : each.close({ grace: 0 }),
      ),
    );
    const endpoint = this.#endpoint;
    if (endpoint === undefined) return;
    this.#endpoint = undefined;
    // A closed endpoint refuses clients as long as it exists.
    endpoint.close({ closeCode: StreamCode.None, reason: "" });
    keepRefusing(formatAddress(this.address), endpoint, this.#nativeListeners.splice(0));
    await afterLastFlight();
  }

  /**
   * Sets the certificate for new connections, by another `listen` call: a Deno endpoint uses the
   * configuration of the latest call. Returns Deno's new listener.
   *
   * @throws `InvalidArgument` if the certificate or the key is unusable, `Closed` after `close`
   */
  #listenWith(identity: TlsIdentity): NativeListener {
    const { settings, maxStreams } = this.#context;
    if (this.#endpoint === undefined) throw new VortexError("Closed", "the listener is closed");
    let native: NativeListener;
    try {
      native = this.#endpoint.listen({
        ...nativeSettings(settings, maxStreams, isLoopback(this.address.host)),
        ...identity,
        alpnProtocols: [...(settings.clients === "stock" ? STOCK_PROTOCOLS : VORTEX_PROTOCOLS)],
      });
    } catch (error) {
      throw VortexError.from(error, "InvalidArgument", "cannot use tls.cert and tls.key");
    }
    this.#nativeListeners.push(native);
    this.#fingerprint = fingerprintOf(identity.cert);
    return native;
  }

  async #acceptConnections(native: NativeListener): Promise<void> {
    for (;;) {
      let incoming: NativeIncoming;
      try {
        incoming = await native.incoming();
      } catch {
        // The endpoint was closed.
        return;
      }
      // A failed attempt must not stop the loop.
      this.#guard.run(() => this.#onIncoming(incoming));
    }
  }

  #onIncoming(incoming: NativeIncoming): void {
    if (this.#closing !== undefined || this.#open >= this.#context.maxConnections) {
      incoming.refuse();
      return;
    }
    if (this.#halfOpen >= MAX_HALF_OPEN) {
      incoming.ignore();
      return;
    }
    let conn: NativeConn;
    try {
      conn = incoming.accept({ zeroRtt: true });
    } catch {
      // The first datagram cannot start a handshake.
      return;
    }
    this.#addConnection(conn);
  }

  #addConnection(native: NativeConn): void {
    const { settings, earlyData } = this.#context;
    const { hostname: host, port } = native.remoteAddr;
    let state: "half-open" | "open" | "ended" = "half-open";
    const connection = new DenoQuicConnection(
      native,
      { host, port },
      {
        guard: this.#guard,
        server: true,
        established: false,
        takesEarlyData: earlyData,
        onUsable: (usable) => this.#deliver(usable),
        onEstablished: (established) => {
          timer.cancel();
          this.#halfOpen--;
          this.#open++;
          state = "open";
          // Other handshakes may have completed since this one started.
          if (this.#open > this.#context.maxConnections)
            established.abort(StreamCode.Busy, TOO_MANY_CONNECTIONS);
        },
      },
    );
    this.#connections.add(connection);
    this.#halfOpen++;
    const timer: Timer = this.#guard.clock.setTimer(
      () => connection.abort(StreamCode.Timeout, "handshake timeout"),
      settings.handshakeTimeout,
      { background: true },
    );
    const onClosed = this.#guard.wrap(() => {
      timer.cancel();
      if (state === "half-open") this.#halfOpen--;
      else this.#open--;
      state = "ended";
      this.#connections.delete(connection);
      this.#delivered.delete(connection);
    });
    void connection.closed.then(onClosed);
  }

  /**
   * Passes a connection to the application. If the limit of connections is exceeded or the listener
   * is closed, aborts the connection instead.
   */
  #deliver(connection: DenoQuicConnection): void {
    if (this.#delivered.has(connection)) return;
    if (this.#open > this.#context.maxConnections) {
      connection.abort(StreamCode.Busy, TOO_MANY_CONNECTIONS);
      return;
    }
    this.#delivered.add(connection);
    if (!this.#incoming.push(connection)) connection.abort();
  }
}

/** Reason phrase that a client receives if the listener has reached its limit of connections. */
const TOO_MANY_CONNECTIONS = "listener at its limit (maxConnections)";

/**
 * Keeps a closed endpoint for {@link REFUSAL_PERIOD_MS}, so that it refuses connection attempts.
 * Then frees its UDP socket.
 *
 * @param addr local address of the endpoint
 * @param natives Deno's listeners on the endpoint
 */
function keepRefusing(
  addr: string,
  endpoint: NativeEndpoint,
  natives: readonly NativeListener[],
): void {
  const references: unknown[] = [endpoint, ...natives];
  releasedAddresses.add(addr);
  const release = (): void => {
    timer.cancel();
    references.length = 0;
    refusingEndpoints.delete(addr);
  };
  const timer = new Guard().clock.setTimer(
    () => {
      release();
      collectSocketsSoon();
    },
    REFUSAL_PERIOD_MS,
    { background: true },
  );
  refusingEndpoints.set(addr, release);
}

import { VortexError } from "../../src/errors.ts";
import { systemClock } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import {
  type Connection,
  type Listener,
  type ListenerCounters,
  StreamCode,
} from "../../src/transport/transport.ts";
import { ALPN } from "../quiche/options.ts";
import { Guard } from "../shared/guard.ts";
import { listenError } from "../shared/native-error.ts";
import { resolveHost } from "../shared/resolve.ts";
import { fingerprintOf } from "../shared/tls.ts";
import { refusedClient } from "../shared/tls-errors.ts";
import { NodeQuicConnection } from "./connection.ts";
import { bindEndpoint, type EndpointContext, nativeAddress } from "./endpoint.ts";
import type { HandshakeInfo, NativeEndpoint, NativeSession } from "./native.ts";
import type { NodeQuicSettings } from "./options.ts";
import { sessionConfig } from "./session-config.ts";
import { clientAuthorities, nativeIdentity } from "./tls.ts";

/**
 * Maximum number of half-open connections, whose handshake is not complete. A further connection
 * evicts the oldest half-open connection.
 *
 * The limit is low because `node:quic` visits all connections for each datagram. That takes 1.2 ms
 * with 1,000 connections, and 7 ms with 3,000. Nor does `node:quic` validate client addresses with
 * Retry packets. The built-in limit of `node:quic` would refuse new clients instead of evicting old
 * connections, without saving memory.
 *
 * An honest client completes its handshake within a round trip. A flood needs some 200 ms to evict
 * 512 connections, since each of its datagrams costs processing time.
 */
export const MAX_HALF_OPEN = 512;
/** Maximum time in ms for which a closing listener waits for half-open connections to end. */
const HALF_OPEN_GRACE_MS = 1000;
/** Largest value that `node:quic` accepts as its limit of connections. */
const MAX_NATIVE_CONNECTIONS = 65_535;

/** Dependencies and limits of a {@link NodeQuicListener}. */
export interface ListenerContext extends EndpointContext {
  readonly settings: NodeQuicSettings;
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly earlyData: boolean;
  /** Certificate and private key that the listener starts with. */
  readonly identity: TlsIdentity;
  /**
   * Certificate authorities for client certificates, in PEM. If undefined, the server requests no
   * client certificate.
   */
  readonly clientCa: string | undefined;
  /** Receives the exceptions that event callbacks of the listener and its connections throw. */
  readonly onError: ((error: VortexError) => void) | undefined;
}

/**
 * Binds a UDP socket to `local` and returns a listener that accepts QUIC connections on it.
 *
 * Rejects with `AddressInUse` if the address cannot be bound, and with `InvalidArgument` if the
 * certificate, its key or an authority is unusable.
 */
export async function listenNodeQuic(context: ListenerContext, local: Address): Promise<Listener> {
  const { quic, settings, clientCa, maxConnections, maxStreams } = context;
  const addr = formatAddress(local);
  const [host = local.host] = await resolveHost(local);
  const ca = clientAuthorities(clientCa);
  const identity = nativeIdentity(context.identity);
  const listener = new NodeQuicListener(context);
  try {
    const [endpoint] = await bindEndpoint(context, nativeAddress(host, local.port), (unbound) =>
      quic.listen((session) => listener.onSession(session), {
        ...sessionConfig(settings, maxStreams, context.earlyData && ca === undefined),
        endpoint: unbound,
        alpn: [ALPN],
        sni: { "*": identity },
        verifyClient: ca !== undefined,
        ...(ca && { ca }),
      }),
    );
    // The module's limit includes half-open connections. It is higher, so that ours applies first.
    endpoint.maxConnectionsTotal = Math.min(
      maxConnections + 2 * MAX_HALF_OPEN,
      MAX_NATIVE_CONNECTIONS,
    );
    listener.start(endpoint, local.host);
    return listener;
  } catch (error) {
    throw bindError(error, addr);
  }
}

class NodeQuicListener implements Listener {
  #address: Address = { host: "", port: 0 };
  #fingerprint: string;
  #endpoint: NativeEndpoint | undefined;
  readonly #context: ListenerContext;
  readonly #guard: Guard;
  readonly #incoming = new AsyncQueue<Connection>();
  /** All connections of this listener, including half-open ones. */
  readonly #connections = new Set<NodeQuicConnection>();
  /** Connections whose handshake is not complete, oldest first. */
  readonly #halfOpen = new Set<NodeQuicConnection>();
  /** Connections that were passed to the application. */
  readonly #accepted = new Set<NodeQuicConnection>();
  #closing: Promise<void> | undefined;

  constructor(context: ListenerContext) {
    this.#context = context;
    this.#guard = new Guard({ onError: context.onError });
    this.#fingerprint = fingerprintOf(context.identity.cert);
  }

  /**
   * Completes the construction with the bound endpoint.
   *
   * @param host requested local host, which becomes part of {@link address}
   */
  start(endpoint: NativeEndpoint, host: string): void {
    this.#endpoint = endpoint;
    this.#address = { host, port: endpoint.address?.port ?? 0 };
  }

  get address(): Address {
    return this.#address;
  }

  get fingerprint(): string {
    return this.#fingerprint;
  }

  /**
   * Counters of this listener. Only `caught` is counted; the others are 0, as `node:quic` does not
   * expose its UDP socket.
   */
  get counters(): ListenerCounters {
    return { unanswerable: 0, unsent: 0, caught: this.#guard.caught };
  }

  async setIdentity(identity: TlsIdentity): Promise<void> {
    const native = nativeIdentity(identity);
    if (this.#context.clientCa !== undefined) {
      throw new VortexError(
        "Unavailable",
        "cannot change the certificate: node:quic does not support it for a server that requires client certificates; listen again, or use QUIC by quiche",
      );
    }
    try {
      this.#endpoint?.setSNIContexts({ "*": native }, { replace: true });
    } catch (error) {
      throw VortexError.from(
        error,
        this.#closing === undefined ? "InvalidArgument" : "Closed",
        "cannot use the certificate or key",
      );
    }
    this.#fingerprint = fingerprintOf(identity.cert);
  }

  accept(): AsyncIterable<Connection> {
    return this.#incoming;
  }

  close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options);
    return this.#closing;
  }

  /**
   * Handles a new connection after the first datagram of a client. At the limit of half-open
   * connections, evicts the oldest. Refuses the new connection if the listener is closing.
   */
  onSession(session: NativeSession): void {
    let connection: NodeQuicConnection | undefined;
    const guard = this.#guard.of((error) => {
      if (connection === undefined)
        session.destroy(undefined, { code: 0, type: "transport", reason: "" });
      else connection.abort(StreamCode.Internal, "", error);
    });
    guard.run(() => {
      connection = this.#connectionOf(session, guard);
      this.#connections.add(connection);
      this.#halfOpen.add(connection);
      const [oldest] = this.#halfOpen;
      if (this.#closing !== undefined) connection.refuse(closed());
      else if (this.#halfOpen.size > MAX_HALF_OPEN) oldest?.refuse(evictedHalfOpen());
    });
  }

  #connectionOf(session: NativeSession, guard: Guard): NodeQuicConnection {
    const connection = new NodeQuicConnection(session, undefined, "none", {
      clock: systemClock,
      guard,
      settings: this.#context.settings,
      server: true,
      onEarlyData: () => this.#deliver(connection),
      onEstablished: (_connection, info) => this.#onEstablished(connection, info),
      onEnded: () => {
        this.#connections.delete(connection);
        this.#halfOpen.delete(connection);
        this.#accepted.delete(connection);
      },
    });
    return connection;
  }

  #onEstablished(connection: NodeQuicConnection, info: HandshakeInfo | undefined): void {
    if (this.#context.clientCa !== undefined && info?.validationErrorCode !== undefined) {
      const showed = connection.session.peerCertificate !== undefined;
      throw refusedClient(showed, info.validationErrorReason ?? info.validationErrorCode);
    }
    if (!this.#accepted.has(connection)) this.#deliver(connection);
    this.#halfOpen.delete(connection);
  }

  /**
   * Passes a connection to the application.
   *
   * @throws `ConnectionRefused` if the limit of connections is reached, `Closed` if the listener is
   * closed
   */
  #deliver(connection: NodeQuicConnection): void {
    if (this.#accepted.size >= this.#context.maxConnections) {
      throw new VortexError(
        "ConnectionRefused",
        `connection refused: the listener is at its limit of ${this.#context.maxConnections} (maxConnections)`,
      );
    }
    if (!this.#incoming.push(connection)) throw closed();
    this.#accepted.add(connection);
  }

  async #close(options: { readonly grace?: number }): Promise<void> {
    this.#incoming.end();
    const endpoint = this.#endpoint;
    if (endpoint === undefined) return;
    endpoint.busy = true;
    await Promise.all([...this.#connections].map((connection) => connection.close(options)));
    const gone = endpoint.close().catch(() => {});
    // Half-open connections of vanished clients would block the close until the handshake timeout.
    await new Promise<void>((resolve) => {
      const timer = systemClock.setTimer(resolve, HALF_OPEN_GRACE_MS);
      void gone.then(() => {
        timer.cancel();
        resolve();
      });
    });
  }
}

/**
 * Converts the error of a failed bind to a `VortexError`. The `node:quic` module reports the
 * system's error number only within the message.
 */
function bindError(error: unknown, addr: string): VortexError {
  if (error instanceof VortexError) return error;
  const [, errno] =
    /Bind failure \((\d+)\)/.exec(error instanceof Error ? error.message : "") ?? [];
  if (errno === undefined)
    return VortexError.from(error, "InvalidArgument", `cannot listen on ${addr}`);
  return listenError(error, addr);
}

function evictedHalfOpen(): VortexError {
  return new VortexError(
    "ConnectionRefused",
    `connection refused: evicted as the oldest of ${MAX_HALF_OPEN} half-open connections`,
  );
}

function closed(): VortexError {
  return new VortexError("Closed", "the listener is closed");
}

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
 * Connections at a time that may be half-open; the oldest makes room for one more. The module looks at all of its connections whenever a
 * datagram comes, which takes 7 ms for 3,000 of them and 1.2 ms for 1,000, and cannot have clients show their addresses first. Its own limit would keep
 * newcomers out instead, for no less memory. An honest client is through after a round trip: with so few a flood is slowed down by its own
 * cost, so that as many do not come in less than some 200 ms.
 */
export const MAX_HALF_OPEN = 512;
/** Milliseconds that a listener that is closed waits for them. */
const HALF_OPEN_GRACE = 1000;
/** The module's greatest limit. */
const MAX_CONNECTIONS = 65_535;

/** What a listener is made of. */
export interface ListenerContext extends EndpointContext {
  readonly settings: NodeQuicSettings;
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly earlyData: boolean;
  /** The certificate to begin with. */
  readonly identity: TlsIdentity;
  /** PEM. */
  readonly clientCa: string | undefined;
  /** Hears of exceptions in event callbacks. */
  readonly onError: ((error: VortexError) => void) | undefined;
}

/** Listens on one UDP socket for all its connections. */
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
    // The module counts those that are half-open among them; its limit is not to be met before ours.
    endpoint.maxConnectionsTotal = Math.min(maxConnections + 2 * MAX_HALF_OPEN, MAX_CONNECTIONS);
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
  /** All connections, the half-open ones among them. */
  readonly #connections = new Set<NodeQuicConnection>();
  /** Those whose handshake is not over, the oldest first. */
  readonly #halfOpen = new Set<NodeQuicConnection>();
  /** Those that the application has. */
  readonly #accepted = new Set<NodeQuicConnection>();
  #closing: Promise<void> | undefined;

  constructor(context: ListenerContext) {
    this.#context = context;
    this.#guard = new Guard({ onError: context.onError });
    this.#fingerprint = fingerprintOf(context.identity.cert);
  }

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

  /** The runtime keeps the socket to itself, and counts nothing of it. */
  get counters(): ListenerCounters {
    return { unanswerable: 0, unsent: 0, caught: this.#guard.caught };
  }

  async setIdentity(identity: TlsIdentity): Promise<void> {
    const native = nativeIdentity(identity);
    if (this.#context.clientCa !== undefined) {
      throw new VortexError(
        "Unavailable",
        "node:quic cannot change the certificate of a server that asks clients for theirs; listen anew, or use QUIC by quiche",
      );
    }
    try {
      this.#endpoint?.setSNIContexts({ "*": native }, { replace: true });
    } catch (error) {
      throw VortexError.from(
        error,
        this.#closing === undefined ? "InvalidArgument" : "Closed",
        "certificate not taken",
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

  /** The first datagram of a client has come. */
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
      else if (this.#halfOpen.size > MAX_HALF_OPEN) oldest?.refuse(noTime());
    });
  }

  #connectionOf(session: NativeSession, guard: Guard): NodeQuicConnection {
    const connection = new NodeQuicConnection(session, undefined, "none", {
      clock: systemClock,
      guard,
      settings: this.#context.settings,
      server: true,
      onEarlyData: () => this.#onUsable(connection),
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
    if (!this.#accepted.has(connection)) this.#onUsable(connection);
    this.#halfOpen.delete(connection);
  }

  #onUsable(connection: NodeQuicConnection): void {
    if (this.#accepted.size >= this.#context.maxConnections) {
      throw new VortexError("ConnectionRefused", "no room for another connection");
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
    // Clients that have vanished in the middle of their handshake hold the socket for as long as a handshake may last.
    await new Promise<void>((resolve) => {
      const timer = systemClock.setTimer(resolve, HALF_OPEN_GRACE);
      void gone.then(() => {
        timer.cancel();
        resolve();
      });
    });
  }
}

/** Of a socket that cannot be bound, the module says its errno only, in its text. */
function bindError(error: unknown, addr: string): VortexError {
  if (error instanceof VortexError) return error;
  const [, errno] =
    /Bind failure \((\d+)\)/.exec(error instanceof Error ? error.message : "") ?? [];
  if (errno === undefined)
    return VortexError.from(error, "InvalidArgument", `cannot listen on ${addr}`);
  return listenError(error, addr);
}

function noTime(): VortexError {
  return new VortexError(
    "ConnectionRefused",
    "many others began a handshake before this one was over",
  );
}

function closed(): VortexError {
  return new VortexError("Closed", "the listener is closed");
}

import { SessionCache } from "../../src/transport/session-cache.ts";
import type { TlsClientOptions, TlsServerOptions } from "../../src/transport/tls.ts";
import {
  type Connection,
  DEFAULT_MAX_CONNECTIONS,
  DEFAULT_MAX_STREAMS,
  type DialOptions,
  type Listener,
  type ListenOptions,
  type Transport,
} from "../../src/transport/transport.ts";
import type { Resolver } from "../shared/resolve.ts";
import { serverIdentity } from "../shared/tls.ts";
import { dialNodeQuic } from "./client.ts";
import type { EndpointContext } from "./endpoint.ts";
import { listenNodeQuic } from "./listener.ts";
import { loadNodeQuic } from "./native.ts";
import { type NodeQuicOptions, nodeQuicSettings } from "./options.ts";
import { SocketOptions } from "./socket-options.ts";

/**
 * How QUIC by `node:quic` authenticates and behaves.
 *
 * @experimental As `node:quic` is.
 */
export interface NodeQuicTransportOptions extends NodeQuicOptions {
  /** For dialling. Default: the peer's certificate must be valid for its host. */
  readonly tls?: TlsClientOptions;
  /** For listening. Default: a new self-signed certificate, for clients that pin its fingerprint. */
  readonly serverTls?: TlsServerOptions;
}

/**
 * QUIC on the runtime's own `node:quic`, for Bun. The module is experimental, and no default: serve with it only where every sender is
 * trusted. Bun 1.4 retries a datagram that the system refuses, and sends nothing else meanwhile. One datagram from port 0 or
 * from an address without a route silences a server until its handshake times out; nothing of it reaches this library.
 *
 * Two more things are less than with quiche: the runtime does not hold a sender whose reader is slow
 * ({@link NodeQuicOptions.unreadLimit}), and a certificate that is changed ({@link Listener.setIdentity}) is shown to clients
 * that name the server only.
 *
 * Rejects with `Unavailable` where the runtime has no such module, and with `InvalidArgument` for options out of their range.
 *
 * @experimental Its API may change in a minor version, as that of `node:quic` may.
 */
export function nodeQuicTransport(options: NodeQuicTransportOptions = {}): Promise<Transport> {
  return nodeQuicTransportWith(undefined, options);
}

/** {@link nodeQuicTransport} with a resolver for host names; default: the system's. */
export async function nodeQuicTransportWith(
  resolver: Resolver | undefined,
  options: NodeQuicTransportOptions = {},
): Promise<Transport> {
  const settings = nodeQuicSettings(options);
  const quic = await loadNodeQuic();
  const { socketBuffer } = settings;
  const endpoints: EndpointContext = {
    quic,
    socketOptions: await SocketOptions.load(),
    socketBuffer,
  };
  const { tls = {}, serverTls = {} } = options;
  const sessions = new SessionCache();
  return {
    protocol: "quic",
    dial: (remote, dialOptions: DialOptions = {}): Promise<Connection> =>
      dialNodeQuic({ ...endpoints, settings, tls, sessions, resolver }, remote, dialOptions),
    async listen(local, listenOptions: ListenOptions = {}): Promise<Listener> {
      return listenNodeQuic(
        {
          ...endpoints,
          settings,
          maxConnections: listenOptions.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
          maxStreams: listenOptions.maxStreams ?? DEFAULT_MAX_STREAMS,
          earlyData: listenOptions.earlyData ?? true,
          identity: await serverIdentity(serverTls),
          clientCa: serverTls.clientCa,
          onError: listenOptions.onError,
        },
        local,
      );
    },
  };
}

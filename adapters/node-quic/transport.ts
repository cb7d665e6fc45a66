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
 * Authentication and tuning of QUIC on `node:quic`.
 *
 * @experimental Like `node:quic` itself.
 */
export interface NodeQuicTransportOptions extends NodeQuicOptions {
  /** TLS for dialling. Default: the peer's certificate must be valid for its host. */
  readonly tls?: TlsClientOptions;
  /**
   * TLS for listening. Default: a new self-signed certificate, which clients pin by fingerprint.
   */
  readonly serverTls?: TlsServerOptions;
}

/**
 * Creates a QUIC transport on the runtime's `node:quic` module, for Bun. Not the default, since the
 * module is experimental.
 *
 * Serve with it only where every sender is trusted. Bun 1.4 retries a datagram that the system
 * refuses, and sends nothing else meanwhile. One datagram from port 0 or from an address without a
 * route therefore silences a server until its handshake times out. This library does not notice.
 *
 * It has two more limitations compared to quiche:
 *
 * - The runtime has no receive flow control, so a slow reader does not slow its sender down
 *   ({@link NodeQuicOptions.unreadLimit}).
 * - A certificate set by {@link Listener.setIdentity} is shown only to clients that send a server
 *   name (SNI).
 *
 * Rejects with `Unavailable` on runtimes without the module, and with `InvalidArgument` for options
 * out of range.
 *
 * @experimental The API may change in a minor version, as that of `node:quic` may.
 */
export function nodeQuicTransport(options: NodeQuicTransportOptions = {}): Promise<Transport> {
  return nodeQuicTransportWith(undefined, options);
}

/** Creates a {@link nodeQuicTransport} with a resolver of host names. Default: the system's. */
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

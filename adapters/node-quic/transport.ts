import { type Checks, fields, integer, oneOf, requireOptions } from "../../src/arguments.ts";
import { type QuicTuning, quicChecks } from "../../src/transport/quic-tuning.ts";
import { SessionCache } from "../../src/transport/session-cache.ts";
import type { TlsClientOptions, TlsServerOptions } from "../../src/transport/tls.ts";
import { tlsClientChecks, tlsServerChecks } from "../../src/transport/tls.ts";
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
 * TLS settings and tuning of the QUIC transport that uses `node:quic`.
 *
 * @experimental May change in a minor version, like `node:quic` itself.
 */
export interface NodeQuicTransportOptions extends NodeQuicOptions {
  /**
   * TLS settings for outgoing connections. Default: the peer's certificate must be valid for the
   * dialled host, and issued by an authority that the runtime trusts.
   */
  readonly tls?: TlsClientOptions | undefined;
  /**
   * TLS settings for listening. Default: a new self-signed certificate, which clients can pin by
   * its fingerprint.
   */
  readonly serverTls?: TlsServerOptions | undefined;
}

/**
 * Creates a `nodeQuicTransport` that resolves host names with `resolver`. If `resolver` is
 * undefined, the system's resolver is used.
 */
export async function nodeQuicTransportWith(
  resolver: Resolver | undefined,
  options: NodeQuicTransportOptions = {},
): Promise<Transport> {
  requireOptions("nodeQuicTransport", options, transportChecks);
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

/** Also has the options of other implementations, which this one ignores. */
const transportChecks: Checks<NodeQuicTransportOptions & QuicTuning> = {
  ...quicChecks,
  congestionControl: oneOf("adaptive", "bbr", "cubic"),
  unreadLimit: integer(1),
  tls: fields(tlsClientChecks),
  serverTls: fields(tlsServerChecks),
};

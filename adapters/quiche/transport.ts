import { randomBytes } from "node:crypto";
import { SessionCache } from "../../src/transport/session-cache.ts";
import type { TlsClientOptions, TlsIdentity, TlsServerOptions } from "../../src/transport/tls.ts";
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
import { type ClientContext, dialQuiche } from "./client.ts";
import { listenQuiche } from "./listener.ts";
import { loadQuiche, type NativeConfig, type Quiche } from "./native.ts";
import {
  applySettings,
  type QuicheOptions,
  type QuicheSettings,
  quicheServerSettings,
  quicheSettings,
} from "./options.ts";
import { SAFE_UDP_PAYLOAD_BYTES } from "./path-mtu.ts";
import { clientConfig, serverConfig } from "./tls.ts";

/**
 * Length of BoringSSL's session ticket key. Each certificate has its own key: resumption skips the
 * certificate, so tickets issued under the old certificate must not resume under the new one.
 */
const TICKET_KEY_BYTES = 48;

/**
 * Client addresses per connection. Each NAT rebinding uses up a path. quiche 0.18 keeps as many
 * paths as connection ids and never frees a used one. Beyond the limit it drops packets that come
 * from new addresses.
 */
const MAX_PATHS = 64;

/** Authentication and tuning of QUIC on quiche. */
export interface QuicheTransportOptions extends QuicheOptions {
  /** TLS for dialling. Default: the peer's certificate must be valid for its host. */
  readonly tls?: TlsClientOptions;
  /**
   * TLS for listening. Default: a new self-signed certificate, which clients pin by fingerprint.
   */
  readonly serverTls?: TlsServerOptions;
}

/**
 * Creates a QUIC transport on Cloudflare's quiche, through the native binding of @matrixai/quic.
 * Runs on Node and Bun.
 *
 * Rejects with `Unavailable` on platforms without a binary of the binding, and with
 * `InvalidArgument` for options out of range.
 */
export function quicheTransport(options: QuicheTransportOptions = {}): Promise<Transport> {
  return quicheTransportWith(undefined, options);
}

/** Creates a {@link quicheTransport} with a resolver of host names. Default: the system's. */
export async function quicheTransportWith(
  resolver: Resolver | undefined,
  options: QuicheTransportOptions = {},
): Promise<Transport> {
  const settings = quicheSettings(options);
  const quiche = await loadQuiche();
  let client: ClientContext | undefined;
  return {
    protocol: "quic",
    async dial(remote, dialOptions: DialOptions = {}): Promise<Connection> {
      if (client === undefined) {
        const tls = options.tls ?? {};
        client = {
          quiche,
          settings,
          tls,
          sessions: new SessionCache(),
          resolver,
          configFor: clientConfigs(quiche, settings, tls),
        };
      }
      return dialQuiche(client, remote, dialOptions);
    },
    async listen(local, listenOptions: ListenOptions = {}): Promise<Listener> {
      const tls = options.serverTls ?? {};
      const { earlyData = true } = listenOptions;
      const maxStreams = listenOptions.maxStreams ?? DEFAULT_MAX_STREAMS;
      const listening = quicheServerSettings(settings);
      return listenQuiche(
        {
          quiche,
          settings: listening,
          maxConnections: listenOptions.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
          maxStreams,
          onError: listenOptions.onError,
          identity: await serverIdentity(tls),
          configsFor: (identity) =>
            serverConfigs(quiche, listening, tls, identity, maxStreams, earlyData),
        },
        local,
      );
    },
  };
}

/**
 * Caches native configurations for dialling by payload size and use of early data. Each is built at
 * its first use, which throws `InvalidArgument` for unusable TLS options.
 */
function clientConfigs(
  quiche: Quiche,
  settings: QuicheSettings,
  tls: TlsClientOptions,
): ClientContext["configFor"] {
  const configs = new Map<string, NativeConfig>();
  return (payloadSize, earlyData) => {
    const key = `${payloadSize} ${earlyData}`;
    const existing = configs.get(key);
    if (existing !== undefined) return existing;
    const config = clientConfig(quiche, tls);
    // Peers open no streams towards a client.
    applySettings(config, settings, 0, payloadSize);
    if (earlyData) config.enableEarlyData();
    configs.set(key, config);
    return config;
  };
}

/**
 * Caches native configurations for one server certificate, by payload size.
 *
 * @throws `InvalidArgument` at once when the certificate or key is unusable
 */
function serverConfigs(
  quiche: Quiche,
  settings: QuicheSettings,
  tls: TlsServerOptions,
  identity: TlsIdentity,
  maxStreams: number,
  earlyData: boolean,
): (payloadSize: number) => NativeConfig {
  const configs = new Map<number, NativeConfig>();
  const ticketKey = randomBytes(TICKET_KEY_BYTES);
  const configFor = (payloadSize: number): NativeConfig => {
    const existing = configs.get(payloadSize);
    if (existing !== undefined) return existing;
    const config = serverConfig(quiche, identity, tls.clientCa);
    applySettings(config, settings, maxStreams, payloadSize);
    config.setActiveConnectionIdLimit(MAX_PATHS);
    config.setTicketKey(ticketKey);
    // Early data has no client certificate yet, so a server that requires one cannot accept it.
    if (earlyData && tls.clientCa === undefined) config.enableEarlyData();
    configs.set(payloadSize, config);
    return config;
  };
  configFor(SAFE_UDP_PAYLOAD_BYTES);
  return configFor;
}

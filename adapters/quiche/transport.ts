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
  listenSettings,
  type QuicheOptions,
  type QuicheSettings,
  quicheSettings,
} from "./options.ts";
import { SAFE_SIZE } from "./path-mtu.ts";
import { clientConfig, serverConfig } from "./tls.ts";

/** What BoringSSL seals session tickets with. Of one identity only: whoever resumes is not shown the certificate again. */
const TICKET_KEY_LENGTH = 48;

/**
 * Addresses of one client. Each rebinding of a NAT takes a path. quiche 0.18 keeps as many paths
 * as connection ids and frees none that was in use. After that it drops packets of new addresses.
 */
const MAX_PATHS = 64;

/** How QUIC by quiche authenticates and behaves. */
export interface QuicheTransportOptions extends QuicheOptions {
  /** For dialling. Default: the peer's certificate must be valid for its host. */
  readonly tls?: TlsClientOptions;
  /** For listening. Default: a new self-signed certificate, for clients that pin its fingerprint. */
  readonly serverTls?: TlsServerOptions;
}

/**
 * QUIC on Cloudflare's quiche, through the native binding of @matrixai/quic, for Node and Bun.
 *
 * Rejects with `Unavailable` where the binding has no binary, and with `InvalidArgument` for options out of their range.
 */
export function quicheTransport(options: QuicheTransportOptions = {}): Promise<Transport> {
  return quicheTransportWith(undefined, options);
}

/** {@link quicheTransport} with a resolver for host names; default: the system's. */
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
      const listening = listenSettings(settings);
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

/** Native configurations for dialling, each made once; an unusable option shows at once. */
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

/** Native configurations that show one certificate, each made once; an unusable certificate shows at once. */
function serverConfigs(
  quiche: Quiche,
  settings: QuicheSettings,
  tls: TlsServerOptions,
  identity: TlsIdentity,
  maxStreams: number,
  earlyData: boolean,
): (payloadSize: number) => NativeConfig {
  const configs = new Map<number, NativeConfig>();
  const ticketKey = randomBytes(TICKET_KEY_LENGTH);
  const configFor = (payloadSize: number): NativeConfig => {
    const existing = configs.get(payloadSize);
    if (existing !== undefined) return existing;
    const config = serverConfig(quiche, identity, tls.clientCa);
    applySettings(config, settings, maxStreams, payloadSize);
    config.setActiveConnectionIdLimit(MAX_PATHS);
    config.setTicketKey(ticketKey);
    // Without a certificate of its own, a returning client is as good before its handshake as after it.
    if (earlyData && tls.clientCa === undefined) config.enableEarlyData();
    configs.set(payloadSize, config);
    return config;
  };
  configFor(SAFE_SIZE);
  return configFor;
}

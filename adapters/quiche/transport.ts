import { randomBytes } from "node:crypto";
import { type Checks, fields, integer, requireOptions } from "../../src/arguments.ts";
import { type QuicTuning, quicChecks } from "../../src/transport/quic-tuning.ts";
import { SessionCache } from "../../src/transport/session-cache.ts";
import type { TlsClientOptions, TlsIdentity, TlsServerOptions } from "../../src/transport/tls.ts";
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
 * Length in bytes of the key that encrypts BoringSSL's session tickets. Each server certificate has
 * a separate ticket key. A resumed session skips the certificate check, so tickets issued under an
 * old certificate must not be valid under a new one.
 */
const TICKET_KEY_BYTES = 48;

/**
 * Maximum number of client addresses, and thus of network paths, per connection on a server. Every
 * NAT rebinding uses up one path. quiche 0.18 allows as many paths as connection IDs and never
 * frees a path. Beyond the limit, it drops packets from new addresses.
 */
const MAX_PATHS = 64;

/** TLS settings and tuning of the QUIC transport that uses quiche. */
export interface QuicheTransportOptions extends QuicheOptions {
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
 * Creates a `quicheTransport` that resolves host names with `resolver`. If `resolver` is
 * undefined, the system's resolver is used.
 */
export async function quicheTransportWith(
  resolver: Resolver | undefined,
  options: QuicheTransportOptions = {},
): Promise<Transport> {
  requireOptions("quicheTransport", options, transportChecks);
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
 * Returns a function that creates quiche's client configuration for a UDP payload size and the use
 * of early data. Each combination is created once and then reused. The returned function throws
 * `InvalidArgument` if the TLS options are unusable.
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
 * Returns a function that returns quiche's server configuration for a maximum UDP payload size in
 * bytes. Each configuration is created at its first use and then reused. All of them use the
 * certificate in `identity`.
 *
 * @throws `InvalidArgument` if the certificate, its key or the CA certificate for clients is
 * invalid
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

/** Also has the options of other implementations, which this one ignores. */
const transportChecks: Checks<QuicheTransportOptions & QuicTuning> = {
  ...quicChecks,
  retry(name, value) {
    if (value !== "always" && value !== "never") integer(0, 1_000_000)(name, value);
  },
  tls: fields(tlsClientChecks),
  serverTls: fields(tlsServerChecks),
};

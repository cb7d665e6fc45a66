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
import { serverIdentity } from "../tls.ts";
import { type ClientContext, dialQuiche } from "./client.ts";
import { listenQuiche } from "./listener.ts";
import { loadQuiche } from "./native.ts";
import { applySettings, type QuicheOptions, quicheSettings } from "./options.ts";
import { clientConfig, serverConfig } from "./tls.ts";

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
export async function quicheTransport(options: QuicheTransportOptions = {}): Promise<Transport> {
  const settings = quicheSettings(options);
  const quiche = await loadQuiche();
  let client: ClientContext | undefined;
  return {
    protocol: "quic",
    async dial(remote, dialOptions: DialOptions = {}): Promise<Connection> {
      if (client === undefined) {
        const tls = options.tls ?? {};
        const config = clientConfig(quiche, tls);
        const earlyConfig = clientConfig(quiche, tls);
        // Peers open no streams towards a client.
        for (const each of [config, earlyConfig]) applySettings(each, settings, 0);
        earlyConfig.enableEarlyData();
        client = { quiche, config, earlyConfig, settings, tls, sessions: new SessionCache() };
      }
      return dialQuiche(client, remote, dialOptions);
    },
    async listen(local, listenOptions: ListenOptions = {}): Promise<Listener> {
      const tls = options.serverTls ?? {};
      const { earlyData = true } = listenOptions;
      const maxStreams = listenOptions.maxStreams ?? DEFAULT_MAX_STREAMS;
      return listenQuiche(
        {
          quiche,
          settings,
          maxConnections: listenOptions.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
          identity: await serverIdentity(tls),
          configFor(identity) {
            const config = serverConfig(quiche, identity, tls.clientCa);
            applySettings(config, settings, maxStreams);
            // Without a certificate of its own, a returning client is as good before its handshake as after it.
            if (earlyData && tls.clientCa === undefined) config.enableEarlyData();
            return config;
          },
        },
        local,
      );
    },
  };
}

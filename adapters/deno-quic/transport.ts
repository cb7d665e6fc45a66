import { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions, TlsServerOptions } from "../../src/transport/tls.ts";
import {
  type Connection,
  DEFAULT_MAX_CONNECTIONS,
  DEFAULT_MAX_STREAMS,
  type Listener,
  type Transport,
} from "../../src/transport/transport.ts";
import type { Resolver } from "../shared/resolve.ts";
import { serverIdentity } from "../shared/tls.ts";
import { DenoQuicDialler } from "./client.ts";
import { listenDenoQuic } from "./listener.ts";
import { denoQuic } from "./native.ts";
import { type DenoQuicOptions, denoQuicSettings } from "./options.ts";

/**
 * How Deno's QUIC authenticates and behaves.
 *
 * @experimental As Deno's QUIC is.
 */
export interface DenoQuicTransportOptions extends DenoQuicOptions {
  /**
   * For dialling. Default: the peer's certificate must be valid for its host. What Deno does otherwise than is said there: an
   * authority in `ca` is trusted besides the runtime's; a pinned certificate must be within its dates, and excludes a client
   * certificate; `verify: false` needs Deno to be started with `--unsafely-ignore-certificate-errors=d7y`.
   */
  readonly tls?: TlsClientOptions;
  /** For listening. Default: a new self-signed certificate, for clients that pin its fingerprint. Deno has no `clientCa`. */
  readonly serverTls?: TlsServerOptions;
}

/**
 * QUIC by Deno itself, which has to be started with `--unstable-net`. It reaches stock Dragonfly peers too: a peer that refuses
 * the application protocol of this library is dialled again without one.
 *
 * Rejects with `Unavailable` where Deno or the flag is missing, and with `InvalidArgument` for options out of their range.
 *
 * @experimental Its API may change in a minor version, as that of Deno may while it needs the flag.
 */
export function denoQuicTransport(options: DenoQuicTransportOptions = {}): Promise<Transport> {
  return denoQuicTransportWith(undefined, options);
}

/** {@link denoQuicTransport} with a resolver for host names; default: the system's. */
export async function denoQuicTransportWith(
  resolver: Resolver | undefined,
  options: DenoQuicTransportOptions = {},
): Promise<Transport> {
  const settings = denoQuicSettings(options);
  const quic = denoQuic();
  let dialler: DenoQuicDialler | undefined;
  return {
    protocol: "quic",
    async dial(remote, dialOptions = {}): Promise<Connection> {
      dialler ??= new DenoQuicDialler(quic, options.tls ?? {}, settings, resolver);
      return dialler.dial(remote, dialOptions);
    },
    close: async (): Promise<void> => dialler?.close(),
    async listen(local, listenOptions = {}): Promise<Listener> {
      const tls = options.serverTls ?? {};
      const identity = await serverIdentity(tls);
      if (tls.clientCa !== undefined) {
        throw new VortexError(
          "Unavailable",
          'tls.clientCa: Deno\'s QUIC cannot ask clients for certificates; serve over "grpc", or from Node or Bun',
        );
      }
      return listenDenoQuic(
        {
          quic,
          settings,
          identity,
          onError: listenOptions.onError,
          maxConnections: listenOptions.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
          maxStreams: listenOptions.maxStreams ?? DEFAULT_MAX_STREAMS,
          earlyData: listenOptions.earlyData ?? true,
        },
        local,
      );
    },
  };
}

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
 * Authentication and tuning of Deno's QUIC.
 *
 * @experimental Like Deno's QUIC itself.
 */
export interface DenoQuicTransportOptions extends DenoQuicOptions {
  /**
   * TLS for dialling. Default: the peer's certificate must be valid for its host.
   *
   * Deno differs from other runtimes: `ca` is trusted in addition to the runtime's authorities. A
   * pinned certificate must be within its validity period, and excludes a client certificate.
   * `verify: false` requires Deno to be started with `--unsafely-ignore-certificate-errors=d7y`.
   */
  readonly tls?: TlsClientOptions;
  /**
   * TLS for listening. Default: a new self-signed certificate, which clients pin by fingerprint.
   * `clientCa` is not supported by Deno.
   */
  readonly serverTls?: TlsServerOptions;
}

/**
 * Creates a QUIC transport on Deno's implementation, which requires the flag `--unstable-net`. It
 * reaches dfdaemon too: a peer that refuses the ALPN of this library is dialled again without ALPN.
 *
 * Rejects with `Unavailable` without Deno or the flag, and with `InvalidArgument` for options out
 * of range.
 *
 * @experimental The API may change in a minor version, as that of Deno may while it needs the flag.
 */
export function denoQuicTransport(options: DenoQuicTransportOptions = {}): Promise<Transport> {
  return denoQuicTransportWith(undefined, options);
}

/** Creates a {@link denoQuicTransport} with a resolver of host names. Default: the system's. */
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
          "tls.clientCa: Deno's QUIC cannot request client certificates; " +
            'serve over "grpc", or from Node or Bun',
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

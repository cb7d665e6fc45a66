import { type Checks, fields, oneOf, requireOptions } from "../../src/arguments.ts";
import { VortexError } from "../../src/errors.ts";
import { type QuicTuning, quicChecks } from "../../src/transport/quic-tuning.ts";
import type { TlsClientOptions, TlsServerOptions } from "../../src/transport/tls.ts";
import { tlsClientChecks, tlsServerChecks } from "../../src/transport/tls.ts";
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
 * TLS settings and tuning of the QUIC transport that uses Deno's implementation.
 *
 * @experimental May change in a minor version, like Deno's QUIC itself.
 */
export interface DenoQuicTransportOptions extends DenoQuicOptions {
  /**
   * TLS settings for outgoing connections. Default: the peer's certificate must be valid for the
   * dialled host, and issued by an authority that the runtime trusts.
   *
   * Deno differs from other runtimes. It trusts the authorities in `ca` in addition to its default
   * authorities. A pinned certificate must be within its validity period, and cannot be combined
   * with a client certificate. `verify: false` requires that Deno was started with
   * `--unsafely-ignore-certificate-errors=d7y`.
   */
  readonly tls?: TlsClientOptions | undefined;
  /**
   * TLS settings for listening. Default: a new self-signed certificate, which clients can pin by
   * its fingerprint. Deno does not support `clientCa`.
   */
  readonly serverTls?: TlsServerOptions | undefined;
}

/**
 * Creates a `denoQuicTransport` that resolves host names with `resolver`. If `resolver` is
 * undefined, the system's resolver is used.
 */
export async function denoQuicTransportWith(
  resolver: Resolver | undefined,
  options: DenoQuicTransportOptions = {},
): Promise<Transport> {
  requireOptions("denoQuicTransport", options, transportChecks);
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

/** Also has the options of other implementations, which this one ignores. */
const transportChecks: Checks<DenoQuicTransportOptions & QuicTuning> = {
  ...quicChecks,
  congestionControl: oneOf("adaptive", "bbr", "cubic"),
  clients: oneOf("vortex", "stock"),
  tls: fields(tlsClientChecks),
  serverTls: fields(tlsServerChecks),
};

import { VortexError } from "../errors.ts";
import { requireInteger } from "../piece.ts";
import type { Runtime } from "../runtime.ts";
import { type ProtocolPorts, stockPorts } from "../transport/peer-address.ts";
import {
  type LeftOutProtocol,
  type Protocol,
  type ProtocolChoice,
  requireProtocolChoice,
} from "../transport/protocol.ts";
import type { QuicTuning } from "../transport/quic-tuning.ts";
import { identifiesPeer, requiresTrust, type TlsClientOptions } from "../transport/tls.ts";
import type { Transport } from "../transport/transport.ts";
import { AutoDownloader, type AutoOptions, type ProtocolEvent } from "./auto/downloader.ts";
import { downloaderSettings, MAX_TIMEOUT_MS } from "./call/settings.ts";
import type { Downloader, DownloaderOptions, DownloaderSettings } from "./downloader.ts";
import {
  autoSource,
  hybridSource,
  type PieceSource,
  singleProtocolSource,
} from "./piece-source.ts";
import { type ClosableDirectory, TaskDownloader } from "./task-downloader.ts";
import { QuicDownloader, TcpDownloader } from "./vortex/downloader.ts";

/** Options of `createDownloader`: the protocol, and its TLS, QUIC and selection settings. */
export interface CreateDownloaderOptions extends DownloaderOptions {
  /**
   * Protocol that transfers pieces. Required.
   *
   * - `auto` selects a protocol for each peer. It tries QUIC, then TCP, then gRPC, and takes the
   *   first that answers. Of QUIC and TCP it later switches to the other one if that is much
   *   faster.
   * - `hybrid` fetches a task over all working protocols of a peer at once. Single pieces go as
   *   with `auto`.
   * - `quic` dials every peer over QUIC. A stock dfdaemon of version 1.1.0 to 1.4.8 exits when a
   *   QUIC handshake fails. Handshakes from Node and Bun always fail there; those from Deno fail if
   *   Deno rejects the certificate.
   * - `tcp` and `grpc` use only that protocol.
   *
   * `auto` and `hybrid` use QUIC with known peers only, see `quicPeers` of {@link AutoOptions}.
   */
  readonly protocol: ProtocolChoice;
  /**
   * Authentication of peers.
   *
   * - QUIC always authenticates; by default against the runtime's certificate authorities.
   * - gRPC uses TLS if this option is given, even as `{}`, and plaintext otherwise, like dfdaemon.
   * - TCP has no TLS. Protocol `tcp` throws `InvalidArgument` if this option sets `ca`,
   *   `fingerprints` or `cert`.
   *
   * With `auto` and `hybrid`, setting `ca`, `fingerprints` or `cert` rules TCP out and restricts
   * gRPC to TLS. With `auto`, a rejected certificate then fails the request instead of leading to
   * the next protocol. With none of these set, gRPC uses `apiTls`, and a rejected certificate leads
   * to the next protocol.
   */
  readonly tls?: TlsClientOptions;
  /**
   * Authentication of parents on the Dragonfly API (gRPC), which lists their pieces of a task.
   * Default: `tls` for protocol `grpc`, else plaintext, like dfdaemon.
   */
  readonly apiTls?: TlsClientOptions;
  /**
   * QUIC congestion control, datagram size, windows and timeouts. Defaults: see {@link QuicTuning}.
   */
  readonly quic?: QuicTuning;
  /**
   * Ports of a peer that is given as `host:port`, for `auto` and `hybrid`; see `addressesOf`.
   * Default: the ports of stock Dragonfly.
   */
  readonly ports?: Partial<ProtocolPorts>;
  /** Protocol selection of `auto` and `hybrid`. Defaults: see {@link AutoOptions}. */
  readonly auto?: AutoOptions;
  /**
   * Called with each protocol that `auto` selects for a peer, and the reason. Exceptions that it
   * throws are dropped. Default: none.
   */
  readonly onProtocol?: (event: ProtocolEvent) => void;
}

/** Type of `createDownloader`, under its name in Dragonfly's design document. */
export type DownloaderFactory = (options: CreateDownloaderOptions) => Downloader;

/** {@link DownloaderFactory} whose downloaders also fetch whole tasks. */
export type TaskDownloaderFactory = (options: CreateDownloaderOptions) => TaskDownloader;

/**
 * Client bindings of a runtime. Each loader runs once per downloader, at the first use of its
 * protocol. The downloader closes the transport when it is closed itself.
 */
export interface Bindings {
  /** Clock, randomness and hashes that the core uses. */
  readonly runtime: Runtime;
  /**
   * Loads the QUIC transport. Rejects with `Unavailable` where there is none; the message names an
   * alternative.
   */
  quic(options: QuicBindingOptions): Promise<Transport>;
  /** Loads the TCP transport. */
  tcp(): Promise<Transport>;
  /** Makes a downloader over gRPC, in plaintext without `tls`. */
  grpc(settings: DownloaderSettings, tls: TlsClientOptions | undefined): Downloader;
  /**
   * Makes the client that asks parents for their pieces of a task, in plaintext without `tls`.
   * Absent: callers have to give the layout of each task.
   */
  directory?(settings: DownloaderSettings, tls: TlsClientOptions | undefined): ClosableDirectory;
}

/** Options of {@link Bindings.quic}. */
export interface QuicBindingOptions {
  /** Authentication of peers. */
  readonly tls: TlsClientOptions;
  /** Congestion control, datagram size, windows and timeouts. */
  readonly tuning: QuicTuning;
}

/**
 * Makes the `createDownloader` of a runtime, or of a program with its own transports. The returned
 * function throws `InvalidArgument` for an option out of its range.
 *
 * @example
 * ```ts
 * import { MemoryTransport, portableRuntime, TcpDownloader, VortexError } from "vortex-peer/core";
 * import { downloaderFactory } from "vortex-peer/tasks";
 *
 * const transport = new MemoryTransport("tcp");
 * const unavailable = () => Promise.reject(new VortexError("Unavailable", "only TCP here"));
 * const createDownloader = downloaderFactory({
 *   runtime: portableRuntime,
 *   tcp: async () => transport,
 *   quic: unavailable,
 *   grpc: (settings) => new TcpDownloader(unavailable, settings),
 * });
 * await createDownloader({ protocol: "tcp" }).close();
 * ```
 */
export function downloaderFactory(bindings: Bindings): TaskDownloaderFactory {
  return (options) => {
    const settings = downloaderSettings(options, bindings.runtime);
    const choice = requireProtocolChoice(options.protocol);
    const pieces = pieceSourceFor(choice, options, bindings, settings);
    const apiTls = options.apiTls ?? (choice === "grpc" ? options.tls : undefined);
    return new TaskDownloader(pieces, bindings.directory?.(settings, apiTls), settings);
  };
}

function pieceSourceFor(
  choice: ProtocolChoice,
  options: CreateDownloaderOptions,
  bindings: Bindings,
  settings: DownloaderSettings,
): PieceSource {
  if (choice === "tcp" && requiresTrust(options.tls ?? {})) {
    throw new VortexError(
      "InvalidArgument",
      "protocol: expected quic or grpc with tls.ca, tls.fingerprints or tls.cert, " +
        "got tcp, which has no TLS",
    );
  }
  if (choice !== "auto" && choice !== "hybrid") {
    return singleProtocolSource(choice, pieceDownloader(choice, options, bindings, settings));
  }
  const { tls = {}, apiTls, auto, onProtocol } = options;
  const ports = { ...stockPorts, ...options.ports };
  for (const [protocol, port] of Object.entries(ports))
    requireInteger(`ports.${protocol}`, port, 1, 65535);
  const { quicPeers = "known", delay = 250, expiry = 600_000 } = auto ?? {};
  if (quicPeers !== "known" && quicPeers !== "any") {
    throw new VortexError(
      "InvalidArgument",
      `auto.quicPeers: expected known or any, got ${JSON.stringify(quicPeers)}`,
    );
  }
  requireInteger("auto.delay", delay, 1, 60_000);
  requireInteger("auto.expiry", expiry, 1, MAX_TIMEOUT_MS);
  const trustsAnyPeer = !requiresTrust(tls);
  const leftOut = [
    ...(quicPeers === "any" || identifiesPeer(tls) ? [] : [QUIC_TO_UNKNOWN_PEERS]),
    ...(trustsAnyPeer ? [] : [TCP_WITHOUT_TLS]),
  ];
  const downloader = new AutoDownloader(
    {
      candidates: PREFERENCE.filter(
        (protocol) => !leftOut.some((one) => one.protocol === protocol),
      ),
      leftOut,
      downloader(protocol, protocolSettings) {
        if (protocol === "grpc") {
          return bindings.grpc(protocolSettings, trustsAnyPeer ? apiTls : tls);
        }
        return pieceDownloader(protocol, options, quicOnly(bindings), protocolSettings);
      },
      ports,
      trust: trustsAnyPeer ? "unnamed" : "named",
      delay,
      expiry,
      onProtocol,
    },
    settings,
  );
  return choice === "auto" ? autoSource(downloader) : hybridSource(downloader);
}

/**
 * Rules out QUIC to peers that may be a stock dfdaemon. Versions 1.1.0 to 1.4.8 exit when a QUIC
 * handshake fails for any reason: unknown ALPN token, certificate rejected by the client, abort.
 */
const QUIC_TO_UNKNOWN_PEERS: LeftOutProtocol = {
  protocol: "quic",
  reason:
    "the peer may be a stock dfdaemon, which exits when a QUIC handshake fails (1.1.0 to 1.4.8); " +
    'to use QUIC, identify the peer by tls.fingerprints or tls.ca, or set auto.quicPeers to "any"',
};

/** Rules out TCP where the options demand an authenticated peer. */
const TCP_WITHOUT_TLS: LeftOutProtocol = {
  protocol: "tcp",
  reason: "it has no TLS, and tls requires verification",
};

/** Protocols in the order of attempts of `auto`. */
const PREFERENCE: readonly Protocol[] = ["quic", "tcp", "grpc"];

/**
 * Disables the fallback of a QUIC binding to TCP. Protocol `auto` tries TCP itself: at the TCP port
 * of the peer, and only where TCP is allowed.
 */
function quicOnly(bindings: Bindings): Bindings {
  return {
    ...bindings,
    async quic(options) {
      const transport = await bindings.quic(options);
      if (transport.protocol === "quic") return transport;
      throw new VortexError("Unavailable", `no QUIC in this runtime: got ${transport.protocol}`);
    },
  };
}

function pieceDownloader(
  protocol: Protocol,
  { tls, quic = {} }: CreateDownloaderOptions,
  bindings: Bindings,
  settings: DownloaderSettings,
): Downloader {
  switch (protocol) {
    case "quic": {
      const transport = new LazyTransport(() => bindings.quic({ tls: tls ?? {}, tuning: quic }));
      return new QuicDownloader(transport.load, settings, transport.close);
    }
    case "tcp": {
      const transport = new LazyTransport(() => bindings.tcp());
      return new TcpDownloader(transport.load, settings, transport.close);
    }
    case "grpc":
      return bindings.grpc(settings, tls);
  }
}

/** Transport of one downloader, loaded at first use. */
class LazyTransport {
  readonly load: () => Promise<Transport>;
  readonly close: () => Promise<void>;

  constructor(load: () => Promise<Transport>) {
    let loading: Promise<Transport> | undefined;
    this.load = () => {
      loading ??= load();
      return loading;
    };
    this.close = async () => {
      // A failed load has already rejected the calls that needed the transport.
      const transport = await loading?.catch(() => undefined);
      await transport?.close?.();
    };
  }
}

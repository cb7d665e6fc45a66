import { type Checks, callback, fields, requireOptions } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { Runtime } from "../runtime.ts";
import type { TaskSink } from "../task/sink.ts";
import { type ProtocolPorts, portsChecks, stockPorts } from "../transport/peer-address.ts";
import {
  type ExcludedProtocol,
  type Protocol,
  type ProtocolChoice,
  requireProtocolChoice,
} from "../transport/protocol.ts";
import { type QuicTuning, quicChecks } from "../transport/quic-tuning.ts";
import {
  identifiesPeer,
  requiresTrust,
  type TlsClientOptions,
  tlsClientChecks,
} from "../transport/tls.ts";
import type { Transport } from "../transport/transport.ts";
import {
  AutoDownloader,
  type AutoOptions,
  autoChecks,
  type ProtocolEvent,
} from "./auto/downloader.ts";
import { downloaderSettings } from "./call/settings.ts";
import {
  type DownloaderSettings,
  type PieceDownloader,
  type TransferOptions,
  transferChecks,
} from "./downloader.ts";
import {
  autoSource,
  hybridSource,
  type PieceSource,
  singleProtocolSource,
} from "./piece-source.ts";
import { type ClosableDirectory, type Downloader, TaskDownloader } from "./task-downloader.ts";
import { QuicDownloader, TcpDownloader } from "./vortex/downloader.ts";

/**
 * Options of `createDownloader`: the protocol, and settings for TLS, QUIC and protocol selection.
 */
export interface DownloaderOptions extends TransferOptions {
  /**
   * Protocol over which pieces are fetched. Default `auto`.
   *
   * - `auto` selects a protocol for each peer. It tries QUIC, then TCP, then gRPC, and selects the
   *   first one over which the peer responds. Later it switches to QUIC or TCP if that proves much
   *   faster.
   * - `hybrid` fetches a task over all working protocols of a peer at once. `downloadPiece` works
   *   as with `auto`.
   * - `quic` dials every address that you name over QUIC. A stock dfdaemon of version 1.1.0 to
   *   1.4.8 exits when a QUIC handshake fails or is aborted. Handshakes from Node and Bun always
   *   fail there. Those from Deno fail if Deno rejects the certificate. Ports that a parent
   *   announces are dialled only at known peers, see `quicPeers` of {@link AutoOptions}.
   * - `tcp` uses only Vortex over TCP, and `grpc` only the Dragonfly gRPC API.
   *
   * `auto` and `hybrid` use QUIC with known peers only, see `quicPeers` of {@link AutoOptions}.
   */
  readonly protocol?: ProtocolChoice | undefined;
  /**
   * Authentication of peers by TLS.
   *
   * - QUIC always authenticates peers, by default with the certificate authorities of the runtime.
   * - gRPC uses TLS if this option is given, even as `{}`. Otherwise it uses plaintext, like
   *   dfdaemon.
   * - TCP has no TLS. Protocol `tcp` throws `InvalidArgument` if this option sets `ca`,
   *   `fingerprints` or `cert`.
   *
   * If `ca`, `fingerprints` or `cert` is set, `auto` and `hybrid` do not use TCP, and use gRPC only
   * with TLS. A rejected certificate then fails a request of `auto`.
   *
   * If none of them is set, `auto` and `hybrid` use `apiTls` for gRPC. After a rejected certificate
   * they try the next protocol.
   */
  readonly tls?: TlsClientOptions | undefined;
  /**
   * Authentication of parents on the Dragonfly gRPC API, which lists the pieces that a parent has
   * of a task. Default: the value of `tls` for protocol `grpc`, else plaintext, like dfdaemon.
   */
  readonly apiTls?: TlsClientOptions | undefined;
  /**
   * QUIC congestion control, datagram size, windows and timeouts. For the defaults see
   * {@link QuicTuning}.
   */
  readonly quic?: QuicTuning | undefined;
  /**
   * Usual port of each protocol, for `auto` and `hybrid`. If a peer is given as `host:port` with
   * one of these ports, the others are used for the other protocols. Default: the ports of stock
   * Dragonfly.
   */
  readonly ports?: { readonly [Name in Protocol]?: number | undefined } | undefined;
  /**
   * Options for the protocol selection of `auto` and `hybrid`. For the defaults see
   * {@link AutoOptions}.
   */
  readonly auto?: AutoOptions | undefined;
  /**
   * Called with each protocol that `auto` selects or `hybrid` uses for a peer, and the reason.
   * Exceptions of the callback are ignored. Default: none.
   */
  readonly onProtocol?: ((event: ProtocolEvent) => void) | undefined;
}

/**
 * Type of a function that creates downloaders, such as `createDownloader`. The name is from
 * Dragonfly's design document.
 */
export type DownloaderFactory = (options?: DownloaderOptions) => Downloader;

/**
 * Transports of a runtime for downloaders. Each loader runs once per downloader, at the first use
 * of its protocol. The downloader closes the loaded transport when it is closed itself.
 */
export interface Bindings {
  /** Clock, random numbers and hash functions for the downloaders. */
  readonly runtime: Runtime;
  /**
   * Loads the QUIC transport. Rejects with `Unavailable` if the runtime has no QUIC. The message of
   * the error names an alternative.
   */
  quic(options: QuicBindingOptions): Promise<Transport>;
  /** Loads the TCP transport. */
  tcp(): Promise<Transport>;
  /** Creates a downloader over gRPC. It uses plaintext if `tls` is undefined. */
  grpc(settings: DownloaderSettings, tls: TlsClientOptions | undefined): PieceDownloader;
  /**
   * Creates a client of the Dragonfly gRPC API, which lists the pieces that parents have of a task.
   * It uses plaintext if `tls` is undefined.
   *
   * Absent: the callers of `downloadTask` must give the length of the task and of its pieces.
   */
  directory?(settings: DownloaderSettings, tls: TlsClientOptions | undefined): ClosableDirectory;
  /**
   * Creates the sink of a file, for the option `to` of `downloadTask`. Absent: the runtime has no
   * files, and a path is rejected with `Unavailable`.
   */
  fileSink?(path: string | URL): TaskSink;
}

/** Options of {@link Bindings.quic}, which loads a QUIC transport. */
export interface QuicBindingOptions {
  /** Authentication of peers by TLS. */
  readonly tls: TlsClientOptions;
  /** Congestion control, datagram size, windows and timeouts. */
  readonly tuning: QuicTuning;
  /**
   * True if the transport may dial peers that are not known to run this library: the caller names
   * them, or set `quicPeers` to `any`.
   */
  readonly dialsUnknownPeers: boolean;
}

/**
 * Creates the `createDownloader` function for a runtime, or for a program with custom transports.
 * The function throws `InvalidArgument` if an option is out of its range.
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
 *
 */
export function downloaderFactory(bindings: Bindings): DownloaderFactory {
  return (options = {}) => {
    requireOptions("createDownloader", options, downloaderChecks);
    const settings = downloaderSettings(options, bindings.runtime);
    const choice = requireProtocolChoice(options.protocol ?? "auto");
    const pieces = pieceSourceFor(choice, options, bindings, settings);
    const apiTls = options.apiTls ?? (choice === "grpc" ? options.tls : undefined);
    return new TaskDownloader(
      pieces,
      bindings.directory?.(settings, apiTls),
      settings,
      bindings.fileSink,
    );
  };
}

function pieceSourceFor(
  choice: ProtocolChoice,
  options: DownloaderOptions,
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
  const { tls = {}, apiTls, auto, onProtocol } = options;
  const { quicPeers = "known", delay = 250, expiry = 600_000 } = auto ?? {};
  const quicRestriction =
    quicPeers === "any" || identifiesPeer(tls) ? undefined : QUIC_TO_UNKNOWN_PEERS;
  if (choice !== "auto" && choice !== "hybrid") {
    const downloader = pieceDownloader(choice, options, bindings, settings);
    return singleProtocolSource(choice, downloader, quicRestriction);
  }
  const ports: ProtocolPorts = {
    quic: options.ports?.quic ?? stockPorts.quic,
    tcp: options.ports?.tcp ?? stockPorts.tcp,
    grpc: options.ports?.grpc ?? stockPorts.grpc,
  };
  const trustsAnyPeer = !requiresTrust(tls);
  const excluded = trustsAnyPeer ? [] : [TCP_WITHOUT_TLS];
  const downloader = new AutoDownloader(
    {
      candidates: PREFERENCE.filter(
        (protocol) => !excluded.some((one) => one.protocol === protocol),
      ),
      excluded,
      quicRestriction,
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
 * Reason why `auto` does not use QUIC with a peer that may be a stock dfdaemon. Versions 1.1.0 to
 * 1.4.8 exit when a QUIC handshake fails for any reason, for example because the client rejects the
 * certificate.
 */
const QUIC_TO_UNKNOWN_PEERS: ExcludedProtocol = {
  protocol: "quic",
  reason:
    "the peer may be a stock dfdaemon, which exits when a QUIC handshake fails (1.1.0 to 1.4.8); " +
    'to use QUIC, identify the peer by tls.fingerprints or tls.ca, or set auto.quicPeers to "any"',
};

/** Reason why `auto` does not use TCP if the options demand an authenticated peer. */
const TCP_WITHOUT_TLS: ExcludedProtocol = {
  protocol: "tcp",
  reason: "it has no TLS, and tls requires verification",
};

/** Protocols in the order in which `auto` tries them. */
const PREFERENCE: readonly Protocol[] = ["quic", "tcp", "grpc"];

/**
 * Returns `bindings` with another QUIC loader: if the runtime has no QUIC, it rejects instead of
 * loading TCP. Protocol `auto` tries TCP itself: at the TCP port of the peer, and only where TCP is
 * allowed.
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
  requested: DownloaderOptions,
  bindings: Bindings,
  settings: DownloaderSettings,
): PieceDownloader {
  const { protocol: choice, auto, tls = {}, quic = {} } = requested;
  switch (protocol) {
    case "quic": {
      const dialsUnknownPeers =
        !identifiesPeer(tls) && (choice === "quic" || auto?.quicPeers === "any");
      const transport = new LazyTransport(() =>
        bindings.quic({ tls, tuning: quic, dialsUnknownPeers }),
      );
      return new QuicDownloader(transport.load, settings, transport.close);
    }
    case "tcp": {
      const transport = new LazyTransport(() => bindings.tcp());
      return new TcpDownloader(transport.load, settings, transport.close);
    }
    case "grpc":
      return bindings.grpc(settings, requested.tls);
  }
}

/** Transport of one downloader, loaded at its first use. */
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

export const downloaderChecks: Checks<DownloaderOptions> = {
  ...transferChecks,
  protocol: (_name, value) => void requireProtocolChoice(value),
  tls: fields(tlsClientChecks),
  apiTls: fields(tlsClientChecks),
  quic: fields(quicChecks),
  ports: fields(portsChecks),
  auto: fields(autoChecks),
  onProtocol: callback,
};

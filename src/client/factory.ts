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

/** Which protocol, and what it needs. */
export interface CreateDownloaderOptions extends DownloaderOptions {
  /**
   * What pieces travel over. `auto` chooses for each peer: QUIC, then TCP, then gRPC, whichever answers first, and later the one
   * of QUIC and TCP that turns out to be much faster. `hybrid` fetches a task over all that work at once, and single pieces as
   * `auto` does. Both use QUIC at known peers only, see `quicPeers` of {@link AutoOptions}. No default.
   *
   * `quic` dials every peer over QUIC. From Node and Bun that ends a stock dfdaemon of version 1.1.0 to 1.4.8, which exits when
   * a QUIC handshake fails; from Deno it does so when the certificate is refused.
   */
  readonly protocol: ProtocolChoice;
  /**
   * How peers are authenticated. QUIC always does: by default, against the runtime's certificate authorities. gRPC runs over TLS
   * when this is given, be it `{}`, and in the clear when it is not, as stock peers serve it. TCP has no TLS: where this says whom
   * to trust, `tcp` is `InvalidArgument`.
   *
   * With `auto` and `hybrid`, where this says whom to trust (`ca`, `fingerprints`, `cert`), TCP is not used, and gRPC over TLS
   * only; `auto` then takes no other protocol when a certificate is not accepted. Else gRPC goes by `apiTls`, and a certificate
   * that is not accepted leads to the next protocol.
   */
  readonly tls?: TlsClientOptions;
  /**
   * How parents are authenticated that are asked over the Dragonfly API what they have of a task. Default: by `tls` for protocol
   * `grpc`; else the API is spoken in the clear, as stock peers serve it.
   */
  readonly apiTls?: TlsClientOptions;
  /** How QUIC behaves: congestion control, datagrams, windows, timeouts. Defaults: those of {@link QuicTuning}. */
  readonly quic?: QuicTuning;
  /** Where peers serve that are given as `host:port`, for `auto` and `hybrid`; see `addressesOf`. Default: stock Dragonfly's ports. */
  readonly ports?: Partial<ProtocolPorts>;
  /** How `auto` and `hybrid` choose. Defaults: those of {@link AutoOptions}. */
  readonly auto?: AutoOptions;
  /** Told of each choice that `auto` makes, with the reason. What it throws is dropped. Default: nobody is. */
  readonly onProtocol?: (event: ProtocolEvent) => void;
}

/** The type of `createDownloader`, under its name in Dragonfly's design document. */
export type DownloaderFactory = (options: CreateDownloaderOptions) => Downloader;

/** A {@link DownloaderFactory} whose downloaders fetch whole tasks too. */
export type TaskDownloaderFactory = (options: CreateDownloaderOptions) => TaskDownloader;

/**
 * What a runtime's face supplies to fetch. Each loader runs once for each downloader, when its protocol is first used; the transport is
 * closed with the downloader.
 */
export interface Bindings {
  /** What the core is given: clock, randomness, hashes. */
  readonly runtime: Runtime;
  /** May reject with `Unavailable`, naming what works instead. */
  quic(options: QuicBindingOptions): Promise<Transport>;
  /** TCP of this runtime. */
  tcp(): Promise<Transport>;
  /** In the clear without `tls`. */
  grpc(settings: DownloaderSettings, tls: TlsClientOptions | undefined): Downloader;
  /** Whom to ask where the pieces of a task are; in the clear without `tls`. Absent: callers have to know. */
  directory?(settings: DownloaderSettings, tls: TlsClientOptions | undefined): ClosableDirectory;
}

/** What a QUIC binding is told. */
export interface QuicBindingOptions {
  /** How peers are authenticated. */
  readonly tls: TlsClientOptions;
  /** How it behaves. */
  readonly tuning: QuicTuning;
}

/**
 * Makes the `createDownloader` of a runtime, or of a program that brings its own transports. What it returns throws `InvalidArgument`
 * for an option out of its range.
 *
 * @example
 * ```ts
 * import { MemoryTransport, portableRuntime, TcpDownloader, VortexError } from "vortex-peer/core";
 * import { downloaderFactory } from "vortex-peer/tasks";
 *
 * const transport = new MemoryTransport("tcp");
 * const createDownloader = downloaderFactory({
 *   runtime: portableRuntime,
 *   tcp: async () => transport,
 *   quic: () => Promise.reject(new VortexError("Unavailable", "there is no QUIC here")),
 *   grpc: (settings) => new TcpDownloader(() => Promise.reject(new VortexError("Unavailable", "nor gRPC")), settings),
 * });
 * await createDownloader({ protocol: "tcp" }).close();
 * ```
 */
export function downloaderFactory(bindings: Bindings): TaskDownloaderFactory {
  return (options) => {
    const settings = downloaderSettings(options, bindings.runtime);
    const choice = requireProtocolChoice(options.protocol);
    const pieces = piecesOf(choice, options, bindings, settings);
    const apiTls = options.apiTls ?? (choice === "grpc" ? options.tls : undefined);
    return new TaskDownloader(pieces, bindings.directory?.(settings, apiTls), settings);
  };
}

function piecesOf(
  choice: ProtocolChoice,
  options: CreateDownloaderOptions,
  bindings: Bindings,
  settings: DownloaderSettings,
): PieceSource {
  if (choice === "tcp" && requiresTrust(options.tls ?? {})) {
    throw new VortexError(
      "InvalidArgument",
      "tls says whom to trust, and protocol tcp has no TLS: expected quic or grpc",
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
  const trusting = !requiresTrust(tls);
  const leftOut = [
    ...(quicPeers === "any" || identifiesPeer(tls) ? [] : [unknownPeers]),
    ...(trusting ? [] : [noTls]),
  ];
  const downloader = new AutoDownloader(
    {
      candidates: byPreference.filter(
        (protocol) => !leftOut.some((one) => one.protocol === protocol),
      ),
      leftOut,
      downloader(protocol, own) {
        if (protocol === "grpc") return bindings.grpc(own, trusting ? apiTls : tls);
        return pieceDownloader(protocol, options, quicOnly(bindings), own);
      },
      ports,
      trust: trusting ? "unnamed" : "named",
      delay,
      expiry,
      onProtocol,
    },
    settings,
  );
  return choice === "auto" ? autoSource(downloader) : hybridSource(downloader);
}

/**
 * dfdaemon 1.1.0 to 1.4.8 exits when a QUIC handshake fails, for any reason: an ALPN token that it does not know, a certificate that
 * the client refuses, an abort. So a peer that may be one is not dialled.
 */
const unknownPeers: LeftOutProtocol = {
  protocol: "quic",
  reason:
    "the peer may be a stock dfdaemon, which exits when a QUIC handshake fails (1.1.0 to 1.4.8); " +
    'to use QUIC, identify the peer by tls.fingerprints or tls.ca, or set auto.quicPeers to "any"',
};

const noTls: LeftOutProtocol = {
  protocol: "tcp",
  reason: "it has no TLS, and tls says whom to trust",
};

/** Protocols in the order in which `auto` tries them. */
const byPreference: readonly Protocol[] = ["quic", "tcp", "grpc"];

/** Whoever chooses tries TCP itself: at its own port, and only where that is allowed. */
function quicOnly(bindings: Bindings): Bindings {
  return {
    ...bindings,
    async quic(options) {
      const transport = await bindings.quic(options);
      if (transport.protocol === "quic") return transport;
      throw new VortexError("Unavailable", "this runtime has no QUIC");
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
      const transport = new OwnTransport(() => bindings.quic({ tls: tls ?? {}, tuning: quic }));
      return new QuicDownloader(transport.load, settings, transport.close);
    }
    case "tcp": {
      const transport = new OwnTransport(() => bindings.tcp());
      return new TcpDownloader(transport.load, settings, transport.close);
    }
    case "grpc":
      return bindings.grpc(settings, tls);
  }
}

/** The transport of one downloader, loaded when it is first needed. */
class OwnTransport {
  readonly load: () => Promise<Transport>;
  readonly close: () => Promise<void>;

  constructor(load: () => Promise<Transport>) {
    let loading: Promise<Transport> | undefined;
    this.load = () => {
      loading ??= load();
      return loading;
    };
    this.close = async () => {
      // What could not be loaded was told to whoever asked for it.
      const transport = await loading?.catch(() => undefined);
      await transport?.close?.();
    };
  }
}

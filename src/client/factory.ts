import type { Runtime } from "../runtime.ts";
import { type Protocol, requireProtocol } from "../transport/protocol.ts";
import type { TlsClientOptions } from "../transport/tls.ts";
import type { Transport } from "../transport/transport.ts";
import type { Downloader, DownloaderOptions, DownloaderSettings } from "./downloader.ts";
import { downloaderSettings } from "./settings.ts";
import { type ClosableDirectory, TaskDownloader } from "./task-downloader.ts";
import { QuicDownloader, TcpDownloader } from "./vortex-downloader.ts";

/** Which protocol, and what it needs. */
export interface CreateDownloaderOptions extends DownloaderOptions {
  readonly protocol: Protocol;
  /**
   * How peers are authenticated. QUIC always does: by default, against the runtime's certificate authorities. gRPC runs over TLS
   * when this is given, be it `{}`, and in the clear when it is not, as stock peers serve it. TCP has no TLS.
   */
  readonly tls?: TlsClientOptions;
  /**
   * How parents are authenticated that are asked over the Dragonfly API what they have of a task. Default: by `tls` for protocol
   * `grpc`; else the API is spoken in the clear, as stock peers serve it.
   */
  readonly apiTls?: TlsClientOptions;
}

/** The type of `createDownloader`, under its name in Dragonfly's design document. */
export type DownloaderFactory = (options: CreateDownloaderOptions) => Downloader;

/** A {@link DownloaderFactory} whose downloaders fetch whole tasks too. */
export type TaskDownloaderFactory = (options: CreateDownloaderOptions) => TaskDownloader;

/** What a runtime's face supplies to fetch. Each loader runs once, when its protocol is first used. */
export interface Bindings {
  readonly runtime: Runtime;
  /** May reject with `Unavailable`, naming what works instead. */
  quic(options: QuicBindingOptions): Promise<Transport>;
  tcp(): Promise<Transport>;
  /** In the clear without `tls`. */
  grpc(settings: DownloaderSettings, tls: TlsClientOptions | undefined): Downloader;
  /** Whom to ask where the pieces of a task are; in the clear without `tls`. Absent: callers have to know. */
  directory?(settings: DownloaderSettings, tls: TlsClientOptions | undefined): ClosableDirectory;
}

/** What a QUIC binding is told. */
export interface QuicBindingOptions {
  readonly tls: TlsClientOptions;
}

/** Makes the `createDownloader` of a runtime. */
export function downloaderFactory(bindings: Bindings): TaskDownloaderFactory {
  return (options) => {
    const settings = downloaderSettings(options, bindings.runtime);
    const protocol = requireProtocol(options.protocol);
    const pieces = pieceDownloader(protocol, options, bindings, settings);
    const apiTls = options.apiTls ?? (protocol === "grpc" ? options.tls : undefined);
    return new TaskDownloader(pieces, protocol, bindings.directory?.(settings, apiTls), settings);
  };
}

function pieceDownloader(
  protocol: Protocol,
  { tls }: CreateDownloaderOptions,
  bindings: Bindings,
  settings: DownloaderSettings,
): Downloader {
  switch (protocol) {
    case "quic":
      return new QuicDownloader(
        once(() => bindings.quic({ tls: tls ?? {} })),
        settings,
      );
    case "tcp":
      return new TcpDownloader(
        once(() => bindings.tcp()),
        settings,
      );
    case "grpc":
      return bindings.grpc(settings, tls);
  }
}

function once<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | undefined;
  return () => {
    loading ??= load();
    return loading;
  };
}

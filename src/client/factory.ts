import type { Runtime } from "../runtime.ts";
import { type Protocol, requireProtocol } from "../transport/protocol.ts";
import type { TlsClientOptions } from "../transport/tls.ts";
import type { Transport } from "../transport/transport.ts";
import type { Downloader, DownloaderOptions, DownloaderSettings } from "./downloader.ts";
import { downloaderSettings } from "./settings.ts";
import { QuicDownloader, TcpDownloader } from "./vortex-downloader.ts";

/** Which protocol, and what it needs. */
export interface CreateDownloaderOptions extends DownloaderOptions {
  readonly protocol: Protocol;
  /** How peers are authenticated over QUIC. Default: against the runtime's certificate authorities. */
  readonly tls?: TlsClientOptions;
}

/** The type of `createDownloader`, under its name in Dragonfly's design document. */
export type DownloaderFactory = (options: CreateDownloaderOptions) => Downloader;

/** What a runtime's face supplies to fetch. Each loader runs once, when its protocol is first used. */
export interface Bindings {
  readonly runtime: Runtime;
  /** May reject with `Unavailable`, naming what works instead. */
  quic(options: QuicBindingOptions): Promise<Transport>;
  tcp(): Promise<Transport>;
  grpc(settings: DownloaderSettings): Downloader;
}

/** What a QUIC binding is told. */
export interface QuicBindingOptions {
  readonly tls: TlsClientOptions;
}

/** Makes the `createDownloader` of a runtime. */
export function downloaderFactory(bindings: Bindings): DownloaderFactory {
  return (options) => {
    const settings = downloaderSettings(options, bindings.runtime);
    const protocol = requireProtocol(options.protocol);
    switch (protocol) {
      case "quic":
        return new QuicDownloader(
          once(() => bindings.quic({ tls: options.tls ?? {} })),
          settings,
        );
      case "tcp":
        return new TcpDownloader(
          once(() => bindings.tcp()),
          settings,
        );
      case "grpc":
        return bindings.grpc(settings);
    }
  };
}

function once<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | undefined;
  return () => {
    loading ??= load();
    return loading;
  };
}

import { VortexError } from "../../errors.ts";
import type { Transport } from "../../transport/transport.ts";
import { PooledDownloader } from "../call/pooled-downloader.ts";
import type { DownloaderSettings } from "../downloader.ts";
import { VortexClient } from "./client.ts";

/** Loads a transport at first use, so that a missing binding fails the call and not the import. */
export type TransportLoader = () => Promise<Transport>;

/**
 * Callback after a downloader has closed all its connections. The owner of the transport can close
 * it here.
 */
export type OnClosed = () => Promise<void>;

/** `Downloader` over the Vortex protocol, with a connection pool. */
export class VortexDownloader extends PooledDownloader<VortexClient> {
  readonly #onClosed: OnClosed | undefined;

  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(
      async (addr, signal) => VortexClient.connect(await transport(), addr, settings, signal),
      settings,
    );
    this.#onClosed = onClosed;
  }

  override async close(): Promise<void> {
    await super.close();
    await this.#onClosed?.();
  }
}

/**
 * {@link VortexDownloader} over a QUIC transport, or over its fallback where the runtime has no
 * QUIC. The name is from Dragonfly's design document.
 */
export class QuicDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(() => requireProtocol(transport, "quic"), settings, onClosed);
  }
}

/** {@link VortexDownloader} over TCP: one TCP connection per request, as dfdaemon expects. */
export class TcpDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(() => requireProtocol(transport, "tcp"), settings, onClosed);
  }
}

/** Loads a transport. @throws `InvalidArgument` if it is for another protocol */
async function requireProtocol(
  load: TransportLoader,
  protocol: "quic" | "tcp",
): Promise<Transport> {
  const transport = await load();
  if (transport.protocol !== protocol && transport.insteadOf !== protocol) {
    throw new VortexError(
      "InvalidArgument",
      `protocol of the transport: expected ${protocol}, got ${transport.protocol}`,
    );
  }
  return transport;
}

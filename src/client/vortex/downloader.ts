import { VortexError } from "../../errors.ts";
import type { Transport } from "../../transport/transport.ts";
import { PooledDownloader } from "../call/pooled-downloader.ts";
import type { DownloaderSettings } from "../downloader.ts";
import { VortexClient } from "./client.ts";

/** Loads a transport when it is first needed, so that a binding that is missing fails the call and not the import. */
export type TransportLoader = () => Promise<Transport>;

/** Called once the connections of a closed downloader have ended; whoever made its transport for it may close that here. */
export type OnClosed = () => Promise<void>;

/** A `Downloader` over the Vortex protocol, with a pool of connections by address. */
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
 * The protocol's name in code that follows Dragonfly's design document: a downloader over a QUIC transport, or over what stands
 * in for it where the runtime has none.
 */
export class QuicDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(() => requireProtocol(transport, "quic"), settings, onClosed);
  }
}

/** A downloader over a TCP transport: one connection a request, as stock peers want it. */
export class TcpDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(() => requireProtocol(transport, "tcp"), settings, onClosed);
  }
}

async function requireProtocol(
  load: TransportLoader,
  protocol: "quic" | "tcp",
): Promise<Transport> {
  const transport = await load();
  if (transport.protocol !== protocol && transport.insteadOf !== protocol) {
    throw new VortexError(
      "InvalidArgument",
      `a ${protocol} downloader was given a ${transport.protocol} transport`,
    );
  }
  return transport;
}

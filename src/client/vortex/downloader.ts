import { untilAborted, VortexError } from "../../errors.ts";
import { formatAddress } from "../../transport/address.ts";
import type { Transport } from "../../transport/transport.ts";
import { PooledDownloader } from "../call/pooled-downloader.ts";
import type { DownloaderSettings } from "../downloader.ts";
import { VortexClient } from "./client.ts";

/** Loads a transport at its first use. So a missing one makes the call fail, not the import. */
export type TransportLoader = () => Promise<Transport>;

/**
 * Called after a downloader has closed all its connections. The owner of the transport can close
 * the transport here.
 */
export type OnClosed = () => Promise<void>;

/** Downloader over the Vortex protocol, with a connection pool. */
export class VortexDownloader extends PooledDownloader<VortexClient> {
  readonly #onClosed: OnClosed | undefined;

  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(async (remote, signal) => {
      // The calls may end, or the downloader may be closed, during the load.
      const loaded = await untilAborted(
        transport(),
        signal,
        `a connection to ${formatAddress(remote)}`,
      );
      return VortexClient.connect(loaded, remote, settings, signal);
    }, settings);
    this.#onClosed = onClosed;
  }

  override async close(): Promise<void> {
    await super.close();
    await this.#onClosed?.();
  }
}

/**
 * Downloader of pieces over QUIC, or over the transport that replaces QUIC in a runtime without it.
 * The name is from Dragonfly's design document.
 */
export class QuicDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(() => requireProtocol(transport, "quic"), settings, onClosed);
  }
}

/**
 * Downloader of pieces over TCP. Opens one TCP connection per concurrent request, and reuses idle
 * ones for 25 s.
 */
export class TcpDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings, onClosed?: OnClosed) {
    super(() => requireProtocol(transport, "tcp"), settings, onClosed);
  }
}

/**
 * Loads a transport and checks its protocol. A transport that replaces `protocol` is accepted.
 *
 * @throws `InvalidArgument` if the transport is for another protocol
 */
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

import { VortexError } from "../errors.ts";
import { type Piece, requireInteger } from "../piece.ts";
import { formatAddress, parseAddress } from "../transport/address.ts";
import type { Transport } from "../transport/transport.ts";
import { CallScope } from "./call-scope.ts";
import type { CallOptions, Downloader, DownloaderSettings, PieceRequest } from "./downloader.ts";
import { ClientPool, type PoolEntryInfo } from "./pool.ts";
import { callTimeouts } from "./settings.ts";
import { VortexClient } from "./vortex-client.ts";

/** Loads a transport when it is first needed, so that a binding that is missing fails the call and not the import. */
export type TransportLoader = () => Promise<Transport>;

/** A {@link Downloader} over the Vortex protocol, with a pool of connections by address. */
export class VortexDownloader implements Downloader {
  readonly #settings: DownloaderSettings;
  readonly #pool: ClientPool<VortexClient>;

  constructor(transport: TransportLoader, settings: DownloaderSettings) {
    this.#settings = settings;
    this.#pool = new ClientPool(
      async (addr, signal) => VortexClient.connect(await transport(), addr, settings, signal),
      settings.pool,
      settings.runtime.clock,
    );
  }

  async downloadPiece(request: PieceRequest, options: CallOptions = {}): Promise<Piece> {
    const addr = formatAddress(parseAddress(request.addr));
    requireInteger("piece number", request.number, 0, 0xffffffff);
    const scope = new CallScope(this.#settings.runtime.clock, {
      ...callTimeouts(options, this.#settings),
      signal: options.signal,
      what: `piece ${request.number} from ${addr}`,
      addr,
    });
    try {
      return await this.#attempt({ ...request, addr }, scope);
    } catch (error) {
      throw scope.end(error);
    }
  }

  /** The pool's entries, for diagnostics. */
  connections(): PoolEntryInfo[] {
    return this.#pool.entries();
  }

  close(): Promise<void> {
    return this.#pool.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #attempt(request: PieceRequest, scope: CallScope): Promise<Piece> {
    for (;;) {
      if (scope.failure !== undefined) throw scope.failure;
      const lease = await this.#pool.acquire(request.addr, scope.signal);
      try {
        const piece = await lease.client.downloadPiece(request, scope);
        scope.onFinish(lease.release);
        return piece;
      } catch (error) {
        // A pooled connection may have died unnoticed, by a restart of the peer for one. The request has no effect on the
        // peer, so it may go again on a new connection; what fails there is told.
        const stale = lease.reused && error instanceof VortexError && error.code === "ConnectionLost";
        if (stale) lease.discard();
        lease.release();
        if (!stale) throw error;
      }
    }
  }
}

/** The protocol's name in code that follows Dragonfly's design document: a downloader over a QUIC transport. */
export class QuicDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings) {
    super(() => requireProtocol(transport, "quic"), settings);
  }
}

/** A downloader over a TCP transport: one connection a request, as stock peers want it. */
export class TcpDownloader extends VortexDownloader {
  constructor(transport: TransportLoader, settings: DownloaderSettings) {
    super(() => requireProtocol(transport, "tcp"), settings);
  }
}

async function requireProtocol(load: TransportLoader, protocol: "quic" | "tcp"): Promise<Transport> {
  const transport = await load();
  if (transport.protocol !== protocol) {
    throw new VortexError("InvalidArgument", `a ${protocol} downloader was given a ${transport.protocol} transport`);
  }
  return transport;
}

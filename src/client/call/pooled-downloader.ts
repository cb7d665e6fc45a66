import { VortexError, withAddress } from "../../errors.ts";
import { type Piece, requireInteger } from "../../piece.ts";
import { beginOperation, type Operation, type OperationStart } from "../../telemetry.ts";
import { formatAddress, parseAddress } from "../../transport/address.ts";
import type { EarlyData } from "../../transport/transport.ts";
import type { CallOptions, Downloader, DownloaderSettings, PieceRequest } from "../downloader.ts";
import { ClientPool, type Dial, type PoolClient, type PoolEntryInfo } from "./pool.ts";
import { CallScope } from "./scope.ts";
import { callTimeouts } from "./settings.ts";

/** A connection to one peer that pieces can be asked for. */
export interface PieceClient extends PoolClient {
  /** See {@link Connection.earlyData}. */
  readonly earlyData?: EarlyData;
  /** Asks for a piece; the scope is the life of the call, and stays open when this throws, so that it can be tried again. */
  downloadPiece(request: PieceRequest, scope: CallScope, operation?: Operation): Promise<Piece>;
}

/** What telemetry is told of a call. */
export interface ReportedCall extends Omit<OperationStart, "role" | "addr"> {
  /** Bytes of content that have come, asked for at the end. Default 0. */
  readonly bytes?: () => number;
}

/** A {@link Downloader} over a pool of connections by address; what all protocols share. */
export class PooledDownloader<C extends PieceClient> implements Downloader {
  readonly #settings: DownloaderSettings;
  readonly #pool: ClientPool<C>;

  /** @param dial makes a connection; the connect timeout is taken care of */
  constructor(dial: Dial<C>, settings: DownloaderSettings) {
    this.#settings = settings;
    this.#pool = new ClientPool(
      (addr, signal) => withinConnectTimeout(dial, addr, settings, signal),
      settings.pool,
      settings.runtime.clock,
    );
  }

  async downloadPiece(request: PieceRequest, options: CallOptions = {}): Promise<Piece> {
    const { addr: peer, taskId, number, kind, range } = request;
    requireInteger("piece number", number, 0, 0xffffffff);
    let bytes = 0;
    const told = {
      name: "download_piece",
      taskId,
      kind: kind ?? "standard",
      number,
      bytes: () => bytes,
    } as const;
    return this.call(
      peer,
      `piece ${number}`,
      options,
      told,
      async (client, scope, addr, operation) => {
        const piece = await client.downloadPiece({ ...request, addr }, scope, operation);
        bytes = (range?.end ?? piece.length) - (range?.start ?? 0);
        return piece;
      },
    );
  }

  /** The pool's entries, for diagnostics. */
  connections(): PoolEntryInfo[] {
    return this.#pool.entries();
  }

  /** Closes the connections to a peer that no request uses. @throws `InvalidArgument` for what is no address */
  closeIdle(addr: string): void {
    this.#pool.closeIdle(formatAddress(parseAddress(addr)));
  }

  close(): Promise<void> {
    return this.#pool.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Makes one call, in a scope of its own that lasts until the call's result is finished with. */
  protected async call<T>(
    peer: string,
    what: string,
    options: CallOptions,
    told: ReportedCall,
    call: (
      client: C,
      scope: CallScope,
      addr: string,
      operation: Operation | undefined,
    ) => Promise<T>,
  ): Promise<T> {
    const addr = formatAddress(parseAddress(peer));
    const { bytes, ...start } = told;
    const operation = beginOperation(this.#settings.telemetry, { ...start, role: "client", addr });
    const scope = new CallScope(this.#settings.runtime.clock, {
      ...callTimeouts(options, this.#settings),
      signal: options.signal,
      what: `${what} from ${addr}`,
      addr,
    });
    scope.onFinish(() => {
      const { failure } = scope;
      operation?.end(failure === undefined ? { bytes: bytes?.() ?? 0 } : { error: failure });
    });
    try {
      return await this.#attempt(addr, scope, (client) => call(client, scope, addr, operation));
    } catch (error) {
      throw scope.end(error);
    }
  }

  async #attempt<T>(addr: string, scope: CallScope, call: (client: C) => Promise<T>): Promise<T> {
    let retried = false;
    for (;;) {
      if (scope.failure !== undefined) throw scope.failure;
      const lease = await this.#pool.acquire(addr, scope.signal);
      scope.onSilence(() => {
        // A peer that is silent on the next connection too is silent, and not gone.
        if (!retried) lease.suspect();
      });
      try {
        const result = await call(lease.client);
        scope.onFinish(() => {
          if (scope.failure?.kind === "timeout") lease.discard();
          lease.release();
        });
        return result;
      } catch (error) {
        const failure = VortexError.from(error, "Internal");
        // A pooled connection may have died unnoticed, by a restart of the peer for one, and what is remembered of a peer may
        // not hold any more. The calls have no effect on the peer, so they may go again on a new connection; what fails there
        // is told.
        const presumed = lease.stale || lease.client.earlyData === "refused";
        const stale = presumed && failure.code === "ConnectionLost";
        // This connection goes on, and asks after its handshake now, or has ended with what was remembered of the peer, and the next
        // one asks after its own.
        const early = failure.code === "EarlyDataRefused";
        // A peer that has vanished is noticed only after the transport's own timeouts, minutes over TCP; a connection that was
        // silent for a whole timeout is not used again before that.
        if (stale || failure.kind === "timeout") lease.discard();
        lease.release();
        if (!stale && !early) throw failure;
        retried ||= stale;
      }
    }
  }
}

/**
 * Dials, for at most the connect timeout, which lasts until the connection stands also where a request may go before it does.
 * Rejects as `dial` does, or with `ConnectTimeout`.
 */
async function withinConnectTimeout<C extends PieceClient>(
  dial: Dial<C>,
  addr: string,
  { connectTimeout, runtime }: DownloaderSettings,
  signal: AbortSignal,
): Promise<C> {
  const attempt = new AbortController();
  const onAbort = (): void => attempt.abort(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  const timer = runtime.clock.setTimer(() => {
    attempt.abort(
      new VortexError("ConnectTimeout", `no connection to ${addr} within ${connectTimeout} ms`, {
        addr,
      }),
    );
  }, connectTimeout);
  const over = (): void => {
    timer.cancel();
    signal.removeEventListener("abort", onAbort);
  };
  try {
    const client = await dial(addr, attempt.signal);
    if (client.ready === undefined) over();
    else client.ready.then(over, over);
    return client;
  } catch (error) {
    over();
    throw withAddress(error, addr);
  }
}

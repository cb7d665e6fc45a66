import { type Checks, callback, requireOptions, text } from "../../arguments.ts";
import { VortexError, withAddress } from "../../errors.ts";
import type { Piece } from "../../piece.ts";
import { beginOperation, type Operation, type OperationStart } from "../../telemetry.ts";
import { type Address, formatAddress, parseAddress } from "../../transport/address.ts";
import type { EarlyData } from "../../transport/transport.ts";
import type {
  CallOptions,
  DownloaderSettings,
  PieceDownloader,
  PieceRequest,
} from "../downloader.ts";
import { pieceRequestChecks } from "../downloader.ts";
import { ClientPool, type Dial, type PoolClient, type PoolEntryInfo } from "./pool.ts";
import { CallScope } from "./scope.ts";
import { callTimeouts } from "./settings.ts";

/** Client in a connection pool, through which pieces are fetched from one peer. */
export interface PieceClient extends PoolClient {
  /** State of the 0-RTT data of the connection, see {@link Connection.earlyData}. */
  readonly earlyData?: EarlyData;
  /**
   * True if the client itself repeats a request whose connection had ended unnoticed, as over TCP.
   * Default: the downloader repeats the request on a new client.
   */
  readonly repeatsStaleRequests?: boolean;
  /**
   * Requests a piece. If the promise rejects, `scope` stays open, so that the caller can retry with
   * the same scope.
   */
  downloadPiece(request: PieceRequest, scope: CallScope, operation?: Operation): Promise<Piece>;
}

/**
 * Options of one call: those of the caller, and internal ones that a downloader of several
 * protocols passes to the downloader of one protocol.
 */
export interface InternalCallOptions
  extends CallOptions,
    Pick<OperationStart, "protocol" | "protocolReason"> {
  /**
   * Called once when the call ends, with the number of content bytes that it transferred. If the
   * call failed, `bytes` is 0 and `error` is defined. Not called if the arguments of the call are
   * invalid.
   */
  readonly onTransferred?: (bytes: number, error: VortexError | undefined) => void;
}

/** Description of a call for the observer (`Telemetry`). */
export interface ObservedCall extends Omit<OperationStart, "role" | "addr"> {
  /** Returns the number of received content bytes. Called when the call ends. Default: 0 bytes. */
  readonly bytes?: () => number;
}

/**
 * {@link PieceDownloader} with a connection pool. Base class of the downloaders of all protocols.
 */
export class PooledDownloader<C extends PieceClient> implements PieceDownloader {
  readonly #settings: DownloaderSettings;
  readonly #pool: ClientPool<C>;

  /** @param dial connects to a peer; its signal aborts after `connectTimeout` */
  constructor(dial: Dial<C>, settings: DownloaderSettings) {
    this.#settings = settings;
    this.#pool = new ClientPool(
      (remote, signal) => withConnectTimeout(dial, remote, settings, signal),
      settings.pool,
      settings.runtime.clock,
    );
  }

  async downloadPiece(request: PieceRequest & InternalCallOptions): Promise<Piece> {
    requireOptions("downloadPiece", request, internalRequestChecks);
    const { addr: peer, taskId, number, kind, range, protocol, protocolReason } = request;
    let bytes = 0;
    const observed = {
      ...(protocol !== undefined && { protocol, protocolReason }),
      name: "download_piece",
      taskId,
      kind: kind ?? "standard",
      number,
      bytes: () => bytes,
    } as const;
    return this.call(
      peer,
      `piece ${number}`,
      request,
      observed,
      async (client, scope, addr, operation) => {
        const piece = await client.downloadPiece({ ...request, addr }, scope, operation);
        bytes = Number(range?.end ?? piece.length) - Number(range?.start ?? 0);
        return piece;
      },
    );
  }

  /** Lists the connections of the pool, for diagnostics. */
  connections(): PoolEntryInfo[] {
    return this.#pool.entries();
  }

  /**
   * Closes the connections to a peer that no request uses.
   *
   * @throws `InvalidArgument` if `addr` is not a valid `host:port`
   */
  closeIdle(addr: string): void {
    this.#pool.closeIdle(parseAddress(addr));
  }

  close(): Promise<void> {
    return this.#pool.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Makes one call on a connection from the pool. Parses the address of the peer here, once. The
   * timeouts and the error of the call are held by a {@link CallScope}, which ends when the result
   * has been read to its end.
   *
   * @param what name of the call in error messages
   * @param call runs with a client from the pool, and again after a failure that permits a retry
   */
  protected async call<T>(
    peer: string,
    what: string,
    options: InternalCallOptions,
    observed: ObservedCall,
    call: (
      client: C,
      scope: CallScope,
      addr: string,
      operation: Operation | undefined,
    ) => Promise<T>,
  ): Promise<T> {
    const remote = parseAddress(peer);
    const addr = formatAddress(remote);
    // Throws for invalid options, before the operation begins.
    const timeouts = callTimeouts(options, this.#settings);
    const { bytes, ...start } = observed;
    const operation = beginOperation(this.#settings.telemetry, { ...start, role: "client", addr });
    const scope = new CallScope(this.#settings.runtime.clock, {
      ...timeouts,
      signal: options.signal,
      what: `${what} from ${addr}`,
      addr,
    });
    scope.onFinish(() => {
      const { failure } = scope;
      const transferred = failure === undefined ? (bytes?.() ?? 0) : 0;
      options.onTransferred?.(transferred, failure);
      operation?.end(failure === undefined ? { bytes: transferred } : { error: failure });
    });
    try {
      return await this.#attempt(remote, scope, (client) => call(client, scope, addr, operation));
    } catch (error) {
      throw scope.end(error);
    }
  }

  /**
   * Runs `call` with a client from the pool. Retries on another connection if the peer refused
   * 0-RTT data. Also retries if the connection was lost, and may have been dead before the call.
   */
  async #attempt<T>(
    remote: Address,
    scope: CallScope,
    call: (client: C) => Promise<T>,
  ): Promise<T> {
    let retried = false;
    for (;;) {
      if (scope.failure !== undefined) throw scope.failure;
      const lease = await this.#pool.acquire(remote, scope.signal);
      scope.onSilence(() => {
        // After a retry the connection is new: its silence is that of the peer.
        if (!retried) lease.probe();
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
        // A pooled connection may have died unnoticed, for example by a restart of the peer; the
        // session ticket of a 0-RTT connection may be outdated. Calls have no side effects on the
        // peer, so they are retried on a new connection. A failure there is final.
        const { earlyData, repeatsStaleRequests = false } = lease.client;
        const maybeOutdated = (lease.stale && !repeatsStaleRequests) || earlyData === "refused";
        const stale = maybeOutdated && failure.code === "ConnectionLost";
        // The retry sends no early data: either this connection has completed its handshake, or it
        // has ended together with the session ticket, and the next dial has none.
        const refused = failure.code === "EarlyDataRefused";
        // A vanished peer is detected only by the transport's timeouts, which take minutes over
        // TCP. So a connection that was silent for a whole timeout is not reused.
        if (stale || failure.kind === "timeout") lease.discard();
        lease.release();
        if (!stale && !refused) throw failure;
        retried ||= stale;
      }
    }
  }
}

/**
 * Connects to a peer within `connectTimeout`. The timeout covers the whole handshake, even if
 * `dial` resolves before its end (0-RTT).
 *
 * Rejects with the error of `dial`, or with `ConnectTimeout` after the timeout.
 */
async function withConnectTimeout<C extends PieceClient>(
  dial: Dial<C>,
  remote: Address,
  { connectTimeout, runtime }: DownloaderSettings,
  signal: AbortSignal,
): Promise<C> {
  const addr = formatAddress(remote);
  const attempt = new AbortController();
  const onAbort = (): void => attempt.abort(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  const timer = runtime.clock.setTimer(() => {
    attempt.abort(
      new VortexError(
        "ConnectTimeout",
        `connection to ${addr}: not established within ${connectTimeout} ms (connectTimeout)`,
        { addr },
      ),
    );
  }, connectTimeout);
  const cleanUp = (): void => {
    timer.cancel();
    signal.removeEventListener("abort", onAbort);
  };
  try {
    const client = await dial(remote, attempt.signal);
    if (client.ready === undefined) cleanUp();
    else client.ready.then(cleanUp, cleanUp);
    return client;
  } catch (error) {
    cleanUp();
    throw withAddress(error, addr);
  }
}

/** Also has the options that one downloader passes to another. */
const internalRequestChecks: Checks<PieceRequest & InternalCallOptions> = {
  ...pieceRequestChecks,
  protocol: text,
  protocolReason: text,
  onTransferred: callback,
};

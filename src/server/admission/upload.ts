import { VortexError } from "../../errors.ts";
import { requireInteger } from "../../piece.ts";
import { RateLimiter } from "../../rate-limiter.ts";
import type { Clock, Runtime } from "../../runtime.ts";
import type { Telemetry } from "../../telemetry.ts";
import type { ListenOptions } from "../../transport/transport.ts";
import { PendingWriteBudget } from "./pending-writes.ts";

/** Limits and callbacks of a server. All are optional. */
export interface ServerOptions {
  /**
   * Maximum upload rate over all answers of this server, in bytes/s, at least 1. Default: no limit.
   * Client addresses share the rate equally; for IPv6, each /64 counts as one address.
   */
  readonly uploadRateLimit?: number;
  /**
   * Maximum number of concurrent connections for each protocol, 1 to 1,000,000. Default 1,024.
   *
   * A further connection evicts the oldest one that has made no request, else the one that has been
   * idle for longest. When all are busy, it evicts one of the host with the most connections, or is
   * refused.
   */
  readonly maxConnections?: number;
  /** Maximum number of concurrent streams of one connection, 1 to 1,000,000. Default 128. */
  readonly maxStreams?: number;
  /**
   * Maximum number of concurrent SyncPieces and DownloadTask answers over gRPC, 1 to 1,000,000.
   * Default 1,024. Each answer may last as long as its task grows. Beyond the limit, the oldest
   * answer of the address with the most answers makes room for one to another address.
   */
  readonly maxTaskStreams?: number;
  /**
   * Maximum number of bytes in memory that wait for their peer to read, or for the upload rate,
   * over all answers. At least 1; default 512 MiB. Beyond it, the answer that has waited for
   * longest is aborted.
   */
  readonly maxPendingBytes?: number;
  /** Accepts 0-RTT requests, see {@link ListenOptions.earlyData}. Default true. */
  readonly earlyData?: boolean;
  /**
   * Time limit for a request to arrive, from the opening of its stream, in ms. Default 10,000. Over
   * gRPC also the interval at which idle clients receive a PING, and the time limit to answer it.
   */
  readonly requestTimeout?: number;
  /** Time limit for a peer to accept one more chunk of its answer, in ms. Default 30,000. */
  readonly stallTimeout?: number;
  /**
   * Receives the errors of requests that failed for a reason other than the peer. Also receives
   * failures to accept a connection (at most one a second), and exceptions in event callbacks, each
   * of which ended its connection. Default: they are dropped.
   */
  readonly onError?: (error: VortexError) => void;
  /** Observes every answer, such as `openTelemetry(api)`. Default: none. */
  readonly telemetry?: Telemetry;
}

/** {@link ServerOptions} with all defaults applied, shared by the servers of one store. */
export interface ServerSettings {
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly maxTaskStreams: number;
  readonly maxPendingBytes: number;
  readonly earlyData: boolean;
  readonly requestTimeout: number;
  readonly stallTimeout: number;
  /** Enforces `uploadRateLimit` over all answers; undefined without a limit. */
  readonly limiter: RateLimiter | undefined;
  /** Enforces `maxPendingBytes` over all answers. */
  readonly pendingWrites: PendingWriteBudget;
  readonly onError: (error: VortexError) => void;
  readonly telemetry: Telemetry | undefined;
  /** Clock, randomness and hashes. */
  readonly runtime: Runtime;
}

const MAX_TIMEOUT_MS = 24 * 3600 * 1000;

/**
 * Applies the defaults to `options` and creates the shared limiters.
 *
 * @throws `InvalidArgument` for an option out of its range
 */
export function serverSettings(options: ServerOptions, runtime: Runtime): ServerSettings {
  const maxPendingBytes = options.maxPendingBytes ?? 512 * 1024 * 1024;
  const settings: ServerSettings = {
    maxConnections: options.maxConnections ?? 1024,
    maxStreams: options.maxStreams ?? 128,
    maxTaskStreams: options.maxTaskStreams ?? 1024,
    maxPendingBytes,
    earlyData: options.earlyData ?? true,
    requestTimeout: options.requestTimeout ?? 10_000,
    stallTimeout: options.stallTimeout ?? 30_000,
    limiter:
      options.uploadRateLimit === undefined
        ? undefined
        : new RateLimiter(options.uploadRateLimit, runtime.clock),
    pendingWrites: new PendingWriteBudget(maxPendingBytes),
    onError: options.onError ?? (() => {}),
    telemetry: options.telemetry,
    runtime,
  };
  requireInteger("maxConnections", settings.maxConnections, 1, 1_000_000);
  requireInteger("maxStreams", settings.maxStreams, 1, 1_000_000);
  requireInteger("maxTaskStreams", settings.maxTaskStreams, 1, 1_000_000);
  requireInteger("maxPendingBytes", maxPendingBytes, 1, Number.MAX_SAFE_INTEGER);
  requireInteger("requestTimeout", settings.requestTimeout, 1, MAX_TIMEOUT_MS);
  requireInteger("stallTimeout", settings.stallTimeout, 1, MAX_TIMEOUT_MS);
  return settings;
}

/**
 * Settles as `promise` does, or rejects with `code` after `milliseconds`. Does not stop the
 * operation behind `promise`; the caller must abort it after a timeout.
 *
 * @param what operation that timed out, for the message
 */
export async function withTimeout<T>(
  clock: Clock,
  milliseconds: number,
  promise: Promise<T>,
  code: "Stalled" | "PieceTimeout",
  what: string,
): Promise<T> {
  let expire: (error: VortexError) => void = () => {};
  const expired = new Promise<never>((_resolve, reject) => {
    expire = reject;
  });
  const timer = clock.setTimer(
    () => expire(new VortexError(code, `${what}: ${milliseconds} ms passed`)),
    milliseconds,
  );
  try {
    return await Promise.race([promise, expired]);
  } finally {
    timer.cancel();
  }
}

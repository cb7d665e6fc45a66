import { VortexError } from "../../errors.ts";
import { requireInteger } from "../../piece.ts";
import { RateLimiter } from "../../rate-limiter.ts";
import type { Clock, Runtime } from "../../runtime.ts";
import type { Telemetry } from "../../telemetry.ts";
import type { ListenOptions } from "../../transport/transport.ts";
import { PendingWriteBudget } from "./pending-writes.ts";

/** How a server behaves; all of it optional. */
export interface ServerOptions {
  /**
   * Bytes a second that all answers of this server may take together, at least 1. Default: no limit. The addresses that ask (over IPv6, the
   * /64 they are in) have equal shares of it.
   */
  readonly uploadRateLimit?: number;
  /**
   * Greatest number of connections at a time over each protocol, 1 to 1,000,000. Default 1,024. One more is given the place of the first
   * connection that has made no request, else of the one that has been without one for longest; when all have requests, that of one
   * from the host with most connections, or is turned away.
   */
  readonly maxConnections?: number;
  /** Greatest number of streams at a time on one connection, 1 to 1,000,000. Default 128. */
  readonly maxStreams?: number;
  /**
   * Greatest number of answers of SyncPieces and DownloadTask over gRPC at a time, 1 to 1,000,000. Default 1,024. Each may last
   * as long as its task grows. When all are taken, the oldest of the address with most is given up for another address.
   */
  readonly maxTaskStreams?: number;
  /**
   * Greatest number of bytes that wait for peers to read them, or for the upload rate, over all answers together, at least 1. Default 512 MiB. Beyond it, the answer
   * that has waited for longest is given up.
   */
  readonly maxPendingBytes?: number;
  /** See {@link ListenOptions.earlyData}. Default true. */
  readonly earlyData?: boolean;
  /**
   * Milliseconds for a request to arrive, from the opening of its stream; over gRPC also for a client without one to answer a
   * PING, which it is sent as often. Default 10,000.
   */
  readonly requestTimeout?: number;
  /** Milliseconds in which a peer must take at least a chunk of its answer. Default 30,000. */
  readonly stallTimeout?: number;
  /**
   * Receives the error of each request that failed for a reason that the peer did not cause, and of connections that could not be
   * accepted (at most one a second). Also each exception in an event callback, which ended the connection concerned. Default: none.
   */
  readonly onError?: (error: VortexError) => void;
  /** Hears of every answer, as `openTelemetry(api)` does. Default: nobody. */
  readonly telemetry?: Telemetry;
}

/** {@link ServerOptions} with every default filled in, shared by the servers of one store. */
export interface ServerSettings {
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly maxTaskStreams: number;
  readonly maxPendingBytes: number;
  readonly earlyData: boolean;
  readonly requestTimeout: number;
  readonly stallTimeout: number;
  /** Holds all answers together to `uploadRateLimit`; undefined without a limit. */
  readonly limiter: RateLimiter | undefined;
  /** Limits all answers together to `maxPendingBytes`. */
  readonly pendingWrites: PendingWriteBudget;
  readonly onError: (error: VortexError) => void;
  readonly telemetry: Telemetry | undefined;
  /** What the core is given: clock, randomness, hashes. */
  readonly runtime: Runtime;
}

const MAX_TIMEOUT_MS = 24 * 3600 * 1000;

/**
 * Fills the defaults in.
 * @throws `InvalidArgument` for a value out of its range
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
 * `promise`, or an error with `code` after `milliseconds`. The promise itself goes on; whoever calls this ends what it
 * waits for.
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

import {
  type Checks,
  callback,
  flag,
  implementing,
  integer,
  oneOf,
  requireKnownFields,
  requireOptions,
  size,
} from "../../arguments.ts";
import { VortexError } from "../../errors.ts";
import { type IdVersion, idVersions } from "../../ids.ts";
import { notify } from "../../notify.ts";
import { RateLimiter } from "../../rate-limiter.ts";
import type { Clock, Runtime } from "../../runtime.ts";
import type { Telemetry } from "../../telemetry.ts";
import type { ListenOptions } from "../../transport/transport.ts";
import { PendingWriteBudget } from "./pending-writes.ts";

/** Limits and callbacks of a server. */
export interface ServerOptions {
  /**
   * Maximum upload rate over all responses of this server, in bytes/s, at least 1. Default: no
   * limit. The rate is shared equally among client addresses; for IPv6, all addresses in a /64
   * prefix count as one.
   */
  readonly uploadRateLimit?: number | bigint | undefined;
  /**
   * Maximum number of concurrent connections for each protocol, 1 to 1,000,000. Default 1,024.
   *
   * When the limit is reached, a new connection evicts the oldest connection without any request so
   * far. If there is none, it evicts the connection that has been idle for longest. If all
   * connections have requests in flight, it evicts a connection of the host with the most
   * connections. If the new connection is from that host, it is refused.
   */
  readonly maxConnections?: number | undefined;
  /** Maximum number of concurrent streams of one connection, 1 to 1,000,000. Default 128. */
  readonly maxStreams?: number | undefined;
  /**
   * Maximum number of concurrent responses to SyncPieces and DownloadTask over gRPC, 1 to
   * 1,000,000. Default 1,024. Each response may last until all pieces of its task have arrived. The
   * same limit applies once more to responses about this host: SyncHost, and Watch of the health.
   *
   * When the limit is reached, a new call evicts the oldest response of the client address with the
   * most responses. If the new call is from that address, it fails with RESOURCE_EXHAUSTED.
   */
  readonly maxTaskStreams?: number | undefined;
  /**
   * Maximum number of bytes in memory that wait until their peer reads, or for the upload rate
   * limit. Counted over all responses. At least 1; default 512 MiB. When the limit is exceeded, the
   * response that has waited for longest is aborted.
   */
  readonly maxPendingBytes?: number | undefined;
  /** True to accept 0-RTT requests, see {@link ListenOptions.earlyData}. Default true. */
  readonly earlyData?: boolean | undefined;
  /**
   * Maximum time from the opening of a stream to the arrival of its complete request, in ms.
   * Over TCP, counted from the first byte of the request. Default 10,000. Over gRPC, also the
   * interval between the PING frames to an idle client, and the time limit for the client to
   * acknowledge a PING.
   */
  readonly requestTimeout?: number | undefined;
  /**
   * Maximum time in ms until the peer accepts the next chunk of its response. Default 30,000. When
   * it passes, the response is aborted.
   */
  readonly stallTimeout?: number | undefined;
  /**
   * Version of dfdaemon whose task IDs the gRPC server derives from the URLs in DownloadTask
   * requests. Set `1.5.2` in a cluster of dfdaemons of that version or earlier. Default `1.5.3`,
   * which is also that of later ones.
   */
  readonly idVersion?: "1.5.3" | "1.5.2" | undefined;
  /**
   * Receives the errors that a peer did not cause:
   *
   * - failures of requests, such as an unreadable store
   * - failures to accept a connection, at most one per second
   * - exceptions in event callbacks of the runtime, each of which ended its connection
   *
   * Exceptions of the callback are ignored. Default: these errors are ignored.
   */
  readonly onError?: ((error: VortexError) => void) | undefined;
  /**
   * Receives the start and end of every response, for traces and metrics. Example:
   * `openTelemetry(api)`. Default: none.
   */
  readonly telemetry?: Telemetry | undefined;
}

/**
 * {@link ServerOptions} with all defaults applied, and the limiters for them. All protocols of one
 * `StorageServer` share one object.
 */
export interface ServerSettings {
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly maxTaskStreams: number;
  readonly maxPendingBytes: number;
  readonly earlyData: boolean;
  readonly requestTimeout: number;
  readonly stallTimeout: number;
  readonly idVersion: IdVersion;
  /** Enforces `uploadRateLimit` over all responses; undefined if there is no limit. */
  readonly limiter: RateLimiter | undefined;
  /** Enforces `maxPendingBytes` over all responses. */
  readonly pendingWrites: PendingWriteBudget;
  readonly onError: (error: VortexError) => void;
  readonly telemetry: Telemetry | undefined;
  /** Clock, source of randomness and hash functions. */
  readonly runtime: Runtime;
}

/**
 * Applies the defaults to `options`, and creates the limiters that all protocols of a server share.
 *
 * @throws `InvalidArgument` if an option is out of its range
 */
export function serverSettings(options: ServerOptions, runtime: Runtime): ServerSettings {
  requireKnownFields(options, serverChecks);
  const maxPendingBytes = options.maxPendingBytes ?? 512 * 1024 * 1024;
  return {
    maxConnections: options.maxConnections ?? 1024,
    maxStreams: options.maxStreams ?? 128,
    maxTaskStreams: options.maxTaskStreams ?? 1024,
    maxPendingBytes,
    earlyData: options.earlyData ?? true,
    requestTimeout: options.requestTimeout ?? 10_000,
    stallTimeout: options.stallTimeout ?? 30_000,
    idVersion: options.idVersion ?? "1.5.3",
    limiter:
      options.uploadRateLimit === undefined
        ? undefined
        : new RateLimiter(Number(options.uploadRateLimit), runtime.clock),
    pendingWrites: new PendingWriteBudget(maxPendingBytes),
    onError: (error) => notify(() => options.onError?.(error)),
    telemetry: options.telemetry,
    runtime,
  };
}

/**
 * Returns the settings of a server that listens by itself, outside of a `StorageServer`. Settings
 * are returned as they are; options are checked, and their defaults applied.
 *
 * @param owner name of the function that takes the options, for the error message
 * @throws `InvalidArgument` if an option is unknown or out of its range
 */
export function listenSettings(
  owner: string,
  options: ServerOptions | ServerSettings,
  runtime: Runtime,
): ServerSettings {
  if (typeof options === "object" && options !== null && "runtime" in options) return options;
  requireOptions(owner, options, serverChecks);
  return serverSettings(options, runtime);
}

/**
 * Returns a promise that settles like `promise`, or rejects with the error code `code` after
 * `milliseconds`. A timeout does not stop the operation behind `promise`; the caller must abort it.
 *
 * @param what description of the operation, for the error message
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

const MAX_TIMEOUT_MS = 24 * 3600 * 1000;

/** Check of each field of {@link ServerOptions}; a failed one throws `InvalidArgument`. */
export const serverChecks: Checks<ServerOptions> = {
  uploadRateLimit: size(1),
  maxConnections: integer(1, 1_000_000),
  maxStreams: integer(1, 1_000_000),
  maxTaskStreams: integer(1, 1_000_000),
  maxPendingBytes: integer(1),
  earlyData: flag,
  requestTimeout: integer(1, MAX_TIMEOUT_MS),
  stallTimeout: integer(1, MAX_TIMEOUT_MS),
  idVersion: oneOf(...idVersions),
  onError: callback,
  telemetry: implementing("an observer", "begin"),
};

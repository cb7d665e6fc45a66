import { MAX_PIECE_LENGTH, requireInteger } from "../../piece.ts";
import type { Runtime } from "../../runtime.ts";
import type { CallOptions, DownloaderSettings, TransferOptions } from "../downloader.ts";

/** Maximum value of every timeout option: 30 days, in ms. */
export const MAX_TIMEOUT_MS: number = 30 * 24 * 3600 * 1000;

/**
 * Converts the options of a downloader to settings: checks them and fills in the defaults.
 *
 * @throws `InvalidArgument` if an option is out of its range
 */
export function downloaderSettings(options: TransferOptions, runtime: Runtime): DownloaderSettings {
  const settings: DownloaderSettings = {
    hostId: options.hostId ?? "vortex-peer",
    connectTimeout: options.connectTimeout ?? 2_000,
    pieceTimeout: options.pieceTimeout ?? 360_000,
    stallTimeout: options.stallTimeout ?? 30_000,
    patience: options.patience ?? 60_000,
    maxPieceLength: options.maxPieceLength ?? MAX_PIECE_LENGTH,
    maxMetadataLength: options.maxMetadataLength ?? 64 * 1024,
    pool: {
      connectionsPerAddress: options.pool?.connectionsPerAddress ?? 1,
      capacity: options.pool?.capacity ?? 2_000,
      idleTimeout: options.pool?.idleTimeout ?? 420_000,
      cleanupInterval: options.pool?.cleanupInterval ?? 60_000,
    },
    concurrentPieceCount: options.concurrentPieceCount ?? 8,
    parentConcurrency: options.parentConcurrency ?? 32,
    rateLimit: options.rateLimit,
    earlyData: options.earlyData ?? true,
    telemetry: options.telemetry,
    runtime,
  };
  requireInteger("connectTimeout", settings.connectTimeout, 1, MAX_TIMEOUT_MS);
  requireInteger("pieceTimeout", settings.pieceTimeout, 1, MAX_TIMEOUT_MS);
  requireInteger("stallTimeout", settings.stallTimeout, 1, MAX_TIMEOUT_MS);
  requireInteger("patience", settings.patience, 0, MAX_TIMEOUT_MS);
  requireInteger("maxPieceLength", settings.maxPieceLength, 1, Number.MAX_SAFE_INTEGER);
  requireInteger("maxMetadataLength", settings.maxMetadataLength, 64, 0xffffffff);
  requireInteger("concurrentPieceCount", settings.concurrentPieceCount, 1, 1024);
  requireInteger("parentConcurrency", settings.parentConcurrency, 1, 1_000_000);
  if (settings.rateLimit !== undefined)
    requireInteger("rateLimit", settings.rateLimit, 1, Number.MAX_SAFE_INTEGER);
  requireInteger("pool.connectionsPerAddress", settings.pool.connectionsPerAddress, 1, 64);
  requireInteger("pool.capacity", settings.pool.capacity, 1, 1_000_000);
  requireInteger("pool.idleTimeout", settings.pool.idleTimeout, 1, MAX_TIMEOUT_MS);
  requireInteger("pool.cleanupInterval", settings.pool.cleanupInterval, 1, MAX_TIMEOUT_MS);
  return settings;
}

/**
 * Returns the timeouts of one call in ms. A timeout that `options` lacks is taken from `settings`.
 *
 * @throws `InvalidArgument` if a timeout is out of its range
 */
export function callTimeouts(
  options: CallOptions,
  settings: DownloaderSettings,
): {
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  readonly unreadTimeout: number;
} {
  const pieceTimeout = options.pieceTimeout ?? settings.pieceTimeout;
  const stallTimeout = options.stallTimeout ?? settings.stallTimeout;
  const unreadTimeout = options.unreadTimeout ?? pieceTimeout;
  requireInteger("pieceTimeout", pieceTimeout, 1, MAX_TIMEOUT_MS);
  requireInteger("stallTimeout", stallTimeout, 1, MAX_TIMEOUT_MS);
  requireInteger("unreadTimeout", unreadTimeout, 1, MAX_TIMEOUT_MS);
  return { pieceTimeout, stallTimeout, unreadTimeout };
}

import { requireKnownFields } from "../../arguments.ts";
import { MAX_PIECE_LENGTH } from "../../piece.ts";
import type { Runtime } from "../../runtime.ts";
import type { CallOptions, DownloaderSettings, TransferOptions } from "../downloader.ts";
import { callChecks, transferChecks } from "../downloader.ts";

/**
 * Converts the options of a downloader to settings: checks them and fills in the defaults.
 *
 * @throws `InvalidArgument` if an option is out of its range
 */
export function downloaderSettings(options: TransferOptions, runtime: Runtime): DownloaderSettings {
  requireKnownFields(options, transferChecks);
  return {
    hostId: options.hostId ?? "vortex-peer",
    connectTimeout: options.connectTimeout ?? 2_000,
    pieceTimeout: options.pieceTimeout ?? 360_000,
    stallTimeout: options.stallTimeout ?? 30_000,
    patience: options.patience ?? 60_000,
    maxPieceLength: options.maxPieceLength ?? MAX_PIECE_LENGTH,
    maxMetadataLength: options.maxMetadataLength ?? 64 * 1024,
    unverifiedPieces: options.unverifiedPieces ?? "accept",
    pool: {
      connectionsPerAddress: options.pool?.connectionsPerAddress ?? 1,
      capacity: options.pool?.capacity ?? 2_000,
      idleTimeout: options.pool?.idleTimeout ?? 420_000,
      cleanupInterval: options.pool?.cleanupInterval ?? 60_000,
    },
    concurrentPieceCount: options.concurrentPieceCount ?? 8,
    parentConcurrency: options.parentConcurrency ?? 32,
    rateLimit: options.rateLimit === undefined ? undefined : Number(options.rateLimit),
    earlyData: options.earlyData ?? true,
    telemetry: options.telemetry,
    runtime,
  };
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
  requireKnownFields(options, callChecks);
  const pieceTimeout = options.pieceTimeout ?? settings.pieceTimeout;
  const stallTimeout = options.stallTimeout ?? settings.stallTimeout;
  const unreadTimeout = options.unreadTimeout ?? pieceTimeout;
  return { pieceTimeout, stallTimeout, unreadTimeout };
}

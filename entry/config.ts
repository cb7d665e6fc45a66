/**
 * `vortex-peer/config`: configuration in the format of `dfdaemon.yaml`, and `StorageClient`, a
 * client that takes its settings from it.
 *
 * @module
 */

export type { AutoOptions, ProtocolEvent } from "../src/client/auto/downloader.ts";
export { type DownloaderFiles, downloaderOptions } from "../src/client/configured.ts";
export type {
  CallOptions,
  PieceDownloader,
  PieceDownloadOptions,
  PieceRequest,
  PoolOptions,
  TransferOptions,
} from "../src/client/downloader.ts";
export type { DownloaderOptions } from "../src/client/factory.ts";
export * from "../src/client/storage-client.ts";
export * from "../src/config/config.ts";
export type { ConfigKey, ValueOf as ConfigValue } from "../src/config/keys.ts";
export type { MutualTls } from "../src/config/mutual-tls.ts";
export type {
  ErrorCode,
  ErrorKind,
  VortexError,
  VortexErrorJson,
  VortexErrorOptions,
} from "../src/errors.ts";
export type { IdVersion } from "../src/ids.ts";
export type {
  ByteRange,
  Piece,
  PieceKind,
  PieceMetadata,
  RequestedRange,
  UnverifiedPieces,
} from "../src/piece.ts";
export type { ServerOptions } from "../src/server/admission/upload.ts";
export { type ServerFiles, serverOptions } from "../src/server/configured.ts";
export type { StorageServerOptions } from "../src/server/storage-server.ts";
export type {
  PieceStore,
  StoredPiece,
  StoredPieceRequest,
  StoredTask,
} from "../src/store/store.ts";
export type {
  Operation,
  OperationName,
  OperationResult,
  OperationStart,
  Telemetry,
} from "../src/telemetry.ts";
export type { PeerAddress, PeerAddresses } from "../src/transport/peer-address.ts";
export type { Protocol, ProtocolChoice } from "../src/transport/protocol.ts";
export type { QuicTuning } from "../src/transport/quic-tuning.ts";
export type {
  IdentityStore,
  TlsClientOptions,
  TlsIdentity,
  TlsServerOptions,
} from "../src/transport/tls.ts";

/**
 * `vortex-peer/files`: file-backed sinks, piece stores, identity stores and configuration, for
 * Node, Bun and Deno.
 *
 * @module
 */

export { fileIdentityStore } from "../adapters/files/identity-store.ts";
export { type LoadedConfig, loadConfig } from "../adapters/files/load-config.ts";
export { fileSink } from "../adapters/files/sink.ts";
export { type AddFileOptions, FilePieceStore } from "../adapters/files/store.ts";
export type { AutoOptions, ProtocolEvent } from "../src/client/auto/downloader.ts";
export type { PoolOptions, TransferOptions } from "../src/client/downloader.ts";
export type { DownloaderOptions } from "../src/client/factory.ts";
export type { ConfigSetting, ResolvedConfig } from "../src/config/config.ts";
export type { ConfigKey } from "../src/config/keys.ts";
export type { Config, MutualTlsFiles } from "../src/config/sections.ts";
export type {
  ErrorCode,
  ErrorKind,
  VortexError,
  VortexErrorJson,
  VortexErrorOptions,
} from "../src/errors.ts";
export type { IdVersion } from "../src/ids.ts";
export type { ByteRange, PieceKind, PieceMetadata, UnverifiedPieces } from "../src/piece.ts";
export type { ServerOptions } from "../src/server/admission/upload.ts";
export type { StorageServerOptions } from "../src/server/storage-server.ts";
export type {
  PieceStore,
  StoredPiece,
  StoredPieceRequest,
  StoredTask,
} from "../src/store/store.ts";
export type {
  SinkLayout,
  SinkOpenOptions,
  SinkPart,
  SinkPiece,
  SinkSession,
  TaskSink,
} from "../src/task/sink.ts";
export type {
  Operation,
  OperationName,
  OperationResult,
  OperationStart,
  Telemetry,
} from "../src/telemetry.ts";
export type { Protocol, ProtocolChoice } from "../src/transport/protocol.ts";
export type { QuicTuning } from "../src/transport/quic-tuning.ts";
export type {
  IdentityStore,
  TlsClientOptions,
  TlsIdentity,
  TlsServerOptions,
} from "../src/transport/tls.ts";

/**
 * Exports of the root of vortex-peer that are independent of the runtime: downloads, storage,
 * errors, and the types of their options and results. The entry points of the runtimes add
 * `createDownloader`, `startServer` and others. Everything else is a subpath of the package.
 *
 * @module
 */
export type {
  AutoOptions,
  ProtocolEvent,
} from "../src/client/auto/downloader.ts";
export type {
  CallOptions,
  PieceDownloadOptions,
  PoolOptions,
  TransferOptions,
} from "../src/client/downloader.ts";
export type { DownloaderOptions } from "../src/client/factory.ts";
export type { Downloader } from "../src/client/task-downloader.ts";
export {
  type ErrorCode,
  type ErrorKind,
  VortexError,
  type VortexErrorJson,
  type VortexErrorOptions,
} from "../src/errors.ts";
export {
  type ByteRange,
  type Piece,
  type PieceKind,
  type PieceMetadata,
  pieceMetadata,
  type RequestedRange,
  type UnverifiedPieces,
} from "../src/piece.ts";
export {
  type GrowingTask,
  MemoryPieceStore,
  type MemoryTaskOptions,
} from "../src/store/memory-store.ts";
export type {
  PieceStore,
  StoredPiece,
  StoredPieceRequest,
  StoredTask,
} from "../src/store/store.ts";
export type { KnownLayout, ListedPiece } from "../src/task/layout.ts";
export { type MemorySink, type MemorySinkOptions, memorySink } from "../src/task/memory-sink.ts";
export { requestedRange, taskResponse } from "../src/task/response.ts";
export type {
  SinkLayout,
  SinkOpenOptions,
  SinkPart,
  SinkPiece,
  SinkSession,
  TaskSink,
} from "../src/task/sink.ts";
export type {
  ParentProgress,
  ParentState,
  RouteProgress,
  StreamLayout,
  TaskDownload,
  TaskDownloadOptions,
  TaskEvent,
  TaskParent,
  TaskProgress,
  TaskReport,
  TaskStream,
  TaskStreamOptions,
  Verified,
} from "../src/task/task.ts";
export type {
  Operation,
  OperationName,
  OperationResult,
  OperationStart,
  Telemetry,
} from "../src/telemetry.ts";
export type { PeerAddress, PeerAddresses } from "../src/transport/peer-address.ts";
export type { ExcludedProtocol, Protocol, ProtocolChoice } from "../src/transport/protocol.ts";
export type { QuicTuning } from "../src/transport/quic-tuning.ts";
export type { TlsClientOptions } from "../src/transport/tls.ts";

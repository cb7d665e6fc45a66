/**
 * `vortex-peer/tasks`: download of whole tasks from several parents, and the factory that builds a
 * `createDownloader` from transport bindings.
 *
 * @module
 */

export type { AutoOptions, ProtocolEvent } from "../src/client/auto/downloader.ts";
export type {
  CallOptions,
  DownloaderSettings,
  PieceDownloader,
  PieceDownloadOptions,
  PieceRequest,
  PoolOptions,
  TransferOptions,
} from "../src/client/downloader.ts";
export type {
  Bindings,
  DownloaderFactory,
  DownloaderOptions,
  QuicBindingOptions,
} from "../src/client/factory.ts";
export { downloaderFactory } from "../src/client/factory.ts";
export type { ClosableDirectory, Downloader } from "../src/client/task-downloader.ts";
export type { DigestAlgorithm, Hasher, HasherFactory } from "../src/digest/hasher.ts";
export type {
  ErrorCode,
  ErrorKind,
  VortexError,
  VortexErrorJson,
  VortexErrorOptions,
} from "../src/errors.ts";
export type {
  ByteRange,
  Piece,
  PieceKind,
  PieceMetadata,
  RequestedRange,
  UnverifiedPieces,
} from "../src/piece.ts";
export type { Resolved } from "../src/resolved.ts";
export type { Clock, Runtime, Timer } from "../src/runtime.ts";
export { type ContentSource, type ContentStat, contentStore } from "../src/store/content-store.ts";
export type {
  PieceStore,
  StoredPiece,
  StoredPieceRequest,
  StoredTask,
} from "../src/store/store.ts";
export type {
  DirectoryOptions,
  PieceLocation,
  SyncOptions,
  TaskDirectory,
  TaskOutline,
} from "../src/task/discovery.ts";
export type { KnownLayout, ListedPiece } from "../src/task/layout.ts";
export { type MemorySink, type MemorySinkOptions, memorySink } from "../src/task/memory-sink.ts";
export { type RandomAccess, randomAccessSink } from "../src/task/random-access-sink.ts";
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
export type { Address } from "../src/transport/address.ts";
export type { PeerAddress, PeerAddresses } from "../src/transport/peer-address.ts";
export type { ExcludedProtocol, Protocol, ProtocolChoice } from "../src/transport/protocol.ts";
export type { QuicTuning } from "../src/transport/quic-tuning.ts";
export type { TlsClientOptions, TlsIdentity } from "../src/transport/tls.ts";
export type {
  ByteReader,
  ByteStream,
  ByteWriter,
  CloseInfo,
  Connection,
  DialOptions,
  EarlyData,
  KeptStream,
  Listener,
  ListenerCounters,
  ListenOptions,
  OpenStreamOptions,
  Transport,
} from "../src/transport/transport.ts";

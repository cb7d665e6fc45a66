/**
 * `vortex-peer/grpc`: client and server of the Dragonfly gRPC API on node:http2, for Node, Bun and
 * Deno.
 *
 * @module
 */

export { type GrpcBindingOptions, grpcBinding } from "../adapters/grpc/client.ts";
export {
  GrpcServer,
  type GrpcServerOptions,
  type GrpcServerParts,
  grpcServer,
} from "../adapters/grpc/server.ts";
export type { Dial, PoolClient, PoolEntryInfo } from "../src/client/call/pool.ts";
export type {
  InternalCallOptions,
  ObservedCall,
  PieceClient,
  PooledDownloader,
} from "../src/client/call/pooled-downloader.ts";
export type { CallScope, CallScopeOptions } from "../src/client/call/scope.ts";
export type {
  CallOptions,
  DownloaderSettings,
  PieceDownloader,
  PieceDownloadOptions,
  PieceRequest,
  PoolOptions,
} from "../src/client/downloader.ts";
export { GrpcClient } from "../src/client/grpc/client.ts";
export { GrpcDirectory } from "../src/client/grpc/directory.ts";
export type {
  PersistentCacheTaskIdentity,
  PersistentTaskIdentity,
  StandardTaskIdentity,
  StreamedTask,
  StreamOptions,
  TaskMessage,
} from "../src/client/grpc/download-task.ts";
export type { GrpcBindingLoader, StatTaskOptions } from "../src/client/grpc/downloader.ts";
export {
  type AnnouncedPiece,
  type DownloadTaskOptions,
  type FetchedPiece,
  GrpcDownloader,
  type SyncRequest,
  type TaskIdentity,
  type TaskPieces,
} from "../src/client/grpc/downloader.ts";
export type { PieceExtent } from "../src/client/grpc/piece-layout.ts";
export type { TaskStat } from "../src/client/task-stat.ts";
export type { DigestAlgorithm, Hasher, HasherFactory } from "../src/digest/hasher.ts";
export type {
  ErrorCode,
  ErrorKind,
  VortexError,
  VortexErrorJson,
  VortexErrorOptions,
} from "../src/errors.ts";
export type { IdVersion, ObjectIdentity, StandardIdentity, UrlIdentity } from "../src/ids.ts";
export type {
  ByteRange,
  Piece,
  PieceKind,
  PieceMetadata,
  RequestedRange,
  UnverifiedPieces,
} from "../src/piece.ts";
export type { Flow, RateLimiter } from "../src/rate-limiter.ts";
export type { Resolved } from "../src/resolved.ts";
export type { Clock, Runtime, Timer } from "../src/runtime.ts";
export type { PendingWriteBudget } from "../src/server/admission/pending-writes.ts";
export type { ServerSettings } from "../src/server/admission/upload.ts";
export type { AdvertisedHost } from "../src/server/grpc/advertised.ts";
export type { GrpcMethod, GrpcRequest, GrpcResponse } from "../src/server/grpc/call.ts";
export type { GrpcDispatcher } from "../src/server/grpc/dispatcher.ts";
export type { ProtocolServer } from "../src/server/storage-server.ts";
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
export type {
  Operation,
  OperationName,
  OperationResult,
  OperationStart,
  Telemetry,
} from "../src/telemetry.ts";
export type { Address } from "../src/transport/address.ts";
export type {
  GrpcBinding,
  GrpcCallBounds,
  GrpcConnection,
  GrpcDialOptions,
} from "../src/transport/grpc.ts";
export type { PeerAddress, PeerAddresses } from "../src/transport/peer-address.ts";
export type { Protocol } from "../src/transport/protocol.ts";
export type {
  IdentityStore,
  TlsClientOptions,
  TlsIdentity,
  TlsServerOptions,
} from "../src/transport/tls.ts";
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

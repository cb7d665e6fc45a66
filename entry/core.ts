/**
 * `vortex-peer/core`: download and upload of single pieces on any JavaScript runtime. It exports
 * the codec, the client, the server and the transport contract.
 *
 * The only transport in it is {@link MemoryTransport}. Network transports come from the entry
 * points of the runtimes (Node, Bun, Deno, workers) and from subpaths such as `vortex-peer/tcp`.
 *
 * The import `vortex-peer` resolves to this module when none of the package's export conditions
 * matches the runtime or bundler.
 *
 * @module
 */

export type { Dial, PoolClient, PoolEntryInfo } from "../src/client/call/pool.ts";
export type {
  InternalCallOptions,
  ObservedCall,
  PieceClient,
  PooledDownloader,
} from "../src/client/call/pooled-downloader.ts";
export type { CallScope, CallScopeOptions } from "../src/client/call/scope.ts";
export { downloaderSettings } from "../src/client/call/settings.ts";
export { type CoreDownloaderOptions, createDownloader } from "../src/client/core-factory.ts";
export type {
  CallOptions,
  DownloaderSettings,
  PieceDownloader,
  PieceDownloadOptions,
  PieceRequest,
  PoolOptions,
  TransferOptions,
} from "../src/client/downloader.ts";
export { QuicClient, TcpClient, VortexClient } from "../src/client/vortex/client.ts";
export type { OnClosed } from "../src/client/vortex/downloader.ts";
export {
  QuicDownloader,
  TcpDownloader,
  type TransportLoader,
  VortexDownloader,
} from "../src/client/vortex/downloader.ts";
export { type Digest, digestOf, parseDigest } from "../src/digest/digest.ts";
export {
  type Crc32,
  crc32Hasher,
  type DigestAlgorithm,
  type Hasher,
  type HasherFactory,
  portableHashers,
} from "../src/digest/hasher.ts";
export {
  type ErrorCode,
  type ErrorKind,
  errorCodes,
  VortexError,
  type VortexErrorJson,
  type VortexErrorOptions,
} from "../src/errors.ts";
export type { IdVersion } from "../src/ids.ts";
export {
  type ByteRange,
  MAX_PIECE_LENGTH,
  MIN_PIECE_LENGTH,
  type Piece,
  type PieceKind,
  type PieceMetadata,
  pieceExtent,
  pieceKinds,
  pieceLengthFor,
  pieceMetadata,
  planTask,
  type RequestedRange,
  type TaskPlan,
  type UnverifiedPieces,
} from "../src/piece.ts";
export {
  type DecoderLimits,
  defaultDecoderLimits,
  PacketDecoder,
} from "../src/protocol/decoder.ts";
export {
  type ClosePacket,
  type DownloadPiecePacket,
  decodePacket,
  type ErrorPacket,
  encodePacket,
  type Packet,
  type PieceContentPacket,
  RemoteErrorCode,
  type ReservedPacket,
} from "../src/protocol/packet.ts";
export { Tag } from "../src/protocol/tags.ts";
export type { Flow, RateLimiter } from "../src/rate-limiter.ts";
export type { Resolved } from "../src/resolved.ts";
export {
  type Clock,
  portableRuntime,
  type Runtime,
  systemClock,
  type Timer,
} from "../src/runtime.ts";
export type { PendingWriteBudget } from "../src/server/admission/pending-writes.ts";
export {
  type ServerOptions,
  type ServerSettings,
  serverSettings,
} from "../src/server/admission/upload.ts";
export type { AdvertisedHost } from "../src/server/grpc/advertised.ts";
export {
  type IdentityBinding,
  type ProtocolServer,
  type ServerBindings,
  type StorageServer,
  type StorageServerOptions,
  startStorageServer,
} from "../src/server/storage-server.ts";
export { QuicServer, TcpServer, VortexServer } from "../src/server/vortex-server.ts";
export {
  type GrowingTask,
  MemoryPieceStore,
  type MemoryTaskOptions,
  memoryPieceStoreWith,
} from "../src/store/memory-store.ts";
export { PieceFeed } from "../src/store/piece-feed.ts";
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
export { type Address, formatAddress, parseAddress } from "../src/transport/address.ts";
export { MemoryTransport } from "../src/transport/memory.ts";
export {
  addressesOf,
  type PeerAddress,
  type PeerAddresses,
  type ProtocolPorts,
  stockPorts,
} from "../src/transport/peer-address.ts";
export {
  type Protocol,
  type ProtocolChoice,
  protocolChoices,
  protocols,
} from "../src/transport/protocol.ts";
export type { QuicTuning } from "../src/transport/quic-tuning.ts";
export type {
  IdentityStore,
  TlsIdentity,
  TlsServerOptions,
} from "../src/transport/tls.ts";
export type { EarlyData } from "../src/transport/transport.ts";
export {
  type ByteReader,
  type ByteStream,
  type ByteWriter,
  type CloseInfo,
  type Connection,
  type DialOptions,
  type KeptStream,
  type Listener,
  type ListenerCounters,
  type ListenOptions,
  type OpenStreamOptions,
  StreamCode,
  type Transport,
} from "../src/transport/transport.ts";

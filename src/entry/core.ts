/**
 * `vortex-peer/core`: single pieces, on any JavaScript runtime: the codec, the client, the server, and the contract that a
 * transport fulfils. It brings no transport but {@link MemoryTransport}; the faces and the bindings' subpaths do. It is also what
 * `vortex-peer` is to a runtime, or a bundler, that none of the package's export conditions fits.
 *
 * @module
 */
export type { AutoOptions, PeerPieceRequest, ProtocolEvent } from "../client/auto/downloader.ts";
export { downloaderSettings } from "../client/call/settings.ts";
export { type CoreDownloaderOptions, createDownloader } from "../client/core-factory.ts";
export type {
  CallOptions,
  Downloader,
  DownloaderOptions,
  DownloaderSettings,
  PieceRequest,
  PoolOptions,
} from "../client/downloader.ts";
export type {
  Bindings,
  CreateDownloaderOptions,
  DownloaderFactory,
  QuicBindingOptions,
  TaskDownloaderFactory,
} from "../client/factory.ts";
export { QuicClient, TcpClient, VortexClient } from "../client/vortex/client.ts";
export { QuicDownloader, TcpDownloader, type TransportLoader, VortexDownloader } from "../client/vortex/downloader.ts";
export { type Digest, digestOf, parseDigest } from "../digest/digest.ts";
export {
  type Crc32,
  crc32Hasher,
  type DigestAlgorithm,
  type Hasher,
  type HasherFactory,
  portableHashers,
} from "../digest/hasher.ts";
export { type ErrorCode, type ErrorKind, errorCodes, VortexError, type VortexErrorOptions } from "../errors.ts";
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
  planTask,
  type TaskPlan,
} from "../piece.ts";
export { type DecoderLimits, defaultDecoderLimits, PacketDecoder } from "../protocol/decoder.ts";
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
} from "../protocol/packet.ts";
export { Tag } from "../protocol/tags.ts";
export { type Clock, portableRuntime, type Runtime, systemClock, type Timer } from "../runtime.ts";
export { type ServerOptions, type ServerSettings, serverSettings } from "../server/admission/upload.ts";
export {
  type IdentityBinding,
  type ProtocolServer,
  type ServerBindings,
  StorageServer,
  type StorageServerOptions,
} from "../server/storage-server.ts";
export { QuicServer, TcpServer, VortexServer } from "../server/vortex-server.ts";
export { type GrowingTask, MemoryPieceStore, type MemoryTaskOptions } from "../store/memory-store.ts";
export { PieceFeed } from "../store/piece-feed.ts";
export type { PieceStore, StoredPiece, StoredPieceRequest, StoredTask } from "../store/store.ts";
export type { Operation, OperationName, OperationResult, OperationStart, Telemetry } from "../telemetry.ts";
export { type Address, formatAddress, parseAddress } from "../transport/address.ts";
export { MemoryTransport } from "../transport/memory.ts";
export {
  addressesOf,
  type PeerAddress,
  type PeerAddresses,
  type ProtocolPorts,
  stockPorts,
} from "../transport/peer-address.ts";
export {
  type LeftOutProtocol,
  type Protocol,
  type ProtocolChoice,
  protocolChoices,
  protocols,
} from "../transport/protocol.ts";
export type { QuicTuning } from "../transport/quic-tuning.ts";
export type { IdentityStore, TlsClientOptions, TlsIdentity, TlsServerOptions } from "../transport/tls.ts";
export {
  type ByteReader,
  type ByteStream,
  type ByteWriter,
  type CloseInfo,
  type Connection,
  type DialOptions,
  type Listener,
  type ListenerCounters,
  type ListenOptions,
  StreamCode,
  type Transport,
} from "../transport/transport.ts";

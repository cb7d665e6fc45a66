import type { Piece } from "../piece.ts";
import type { TaskSource } from "../task/source.ts";
import { addressFor, type PeerAddresses } from "../transport/peer-address.ts";
import type { Protocol } from "../transport/protocol.ts";
import type { AutoDownloader } from "./auto/downloader.ts";
import type { PieceDownloader, PieceDownloadOptions } from "./downloader.ts";

/**
 * Fetches single pieces, and pieces for task downloads. Uses one protocol, the best one for each
 * peer, or several at once.
 */
export interface PieceSource extends Omit<TaskSource, "directory"> {
  /** Requests a piece, see {@link PieceDownloader.downloadPiece}. */
  downloadPiece(options: PieceDownloadOptions): Promise<Piece>;
  /** Closes all connections. Idempotent. */
  close(): Promise<void>;
}

/** Creates a {@link PieceSource} that fetches all pieces over one protocol. */
export function singleProtocolSource(protocol: Protocol, downloader: PieceDownloader): PieceSource {
  return {
    downloadPiece: async (options) =>
      downloader.downloadPiece({ ...options, addr: addressFor(options.addr, protocol) }),
    close: () => downloader.close(),
    fetchPiece: ({ addresses: _, ...request }, options) =>
      downloader.downloadPiece({ ...request, ...options }),
    resolve: (addr) => addressFor(addr, protocol),
    addressOf: ({ tcpAddr, quicAddr }) => (protocol === "quic" ? quicAddr : tcpAddr),
    usesGrpc: protocol === "grpc",
  };
}

/**
 * Creates a {@link PieceSource} that fetches pieces over the best protocol for each peer (`auto`).
 */
export function autoSource(downloader: AutoDownloader): PieceSource {
  return {
    downloadPiece: (options) => downloader.downloadPiece(options),
    close: () => downloader.close(),
    fetchPiece: ({ addresses, addr, protocol, ...request }, options) => {
      const peerRequest = { ...request, ...options, addr: addresses ?? addr };
      if (protocol === undefined) return downloader.downloadPiece(peerRequest);
      return downloader.downloadOver(protocol, peerRequest);
    },
    resolve: (addr) => downloader.resolve(addr),
    excluded: (addr) => downloader.excluded(addr),
    addressOf: announcedAddresses,
    usesGrpc: false,
  };
}

/**
 * Creates a {@link PieceSource} for protocol `hybrid`. It fetches a task over all protocols of a
 * peer at once, and single pieces over the best protocol.
 */
export function hybridSource(downloader: AutoDownloader): PieceSource {
  return { ...autoSource(downloader), protocolsOf: (addr) => downloader.protocolsOf(addr) };
}

/**
 * Returns the addresses that a parent announced in a SyncPieces response. Adds `apiAddr`, the
 * address that sent the response over gRPC, because older dfdaemons also serve pieces there.
 */
const announcedAddresses: TaskSource["addressOf"] = (
  { quicAddr, tcpAddr },
  apiAddr,
): PeerAddresses => ({
  ...(quicAddr !== undefined && { quic: quicAddr }),
  ...(tcpAddr !== undefined && { tcp: tcpAddr }),
  grpc: apiAddr,
});

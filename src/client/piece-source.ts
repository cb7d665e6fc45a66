import type { Piece } from "../piece.ts";
import type { TaskSource } from "../task/source.ts";
import { addressFor, type PeerAddresses } from "../transport/peer-address.ts";
import type { Protocol } from "../transport/protocol.ts";
import type { AutoDownloader, PeerPieceRequest } from "./auto/downloader.ts";
import type { CallOptions, Downloader } from "./downloader.ts";

/** How a downloader gets at pieces, one by one and for whole tasks: over one protocol, over the best one, or over several. */
export interface PieceSource extends Omit<TaskSource, "directory"> {
  /** See {@link Downloader.downloadPiece}. */
  downloadPiece(request: PeerPieceRequest, options?: CallOptions): Promise<Piece>;
  /** Ends all connections. Idempotent. */
  close(): Promise<void>;
}

/** Everything over one protocol. */
export function singleProtocolSource(protocol: Protocol, downloader: Downloader): PieceSource {
  return {
    downloadPiece: async (request, options) =>
      downloader.downloadPiece({ ...request, addr: addressFor(request.addr, protocol) }, options),
    close: () => downloader.close(),
    fetchPiece: ({ addresses: _, ...request }, options) =>
      downloader.downloadPiece(request, options),
    resolve: (addr) => addressFor(addr, protocol),
    addressOf: ({ tcpAddr, quicAddr }) => (protocol === "quic" ? quicAddr : tcpAddr),
    speaksApi: protocol === "grpc",
  };
}

/** Each peer over the protocol that works best with it. */
export function autoSource(downloader: AutoDownloader): PieceSource {
  return {
    downloadPiece: (request, options) => downloader.downloadPiece(request, options),
    close: () => downloader.close(),
    fetchPiece: ({ addresses, addr, protocol, ...request }, options) => {
      const asked = { ...request, addr: addresses ?? addr };
      if (protocol === undefined) return downloader.downloadPiece(asked, options);
      return downloader.downloadOver(protocol, asked, options);
    },
    resolve: (addr) => downloader.resolve(addr),
    leftOut: (addr) => downloader.leftOut(addr),
    addressOf: announcedAddresses,
    speaksApi: false,
  };
}

/** Tasks over all protocols that a peer has at once, single pieces over the one that works best. */
export function hybridSource(downloader: AutoDownloader): PieceSource {
  return { ...autoSource(downloader), protocolsOf: (addr) => downloader.protocolsOf(addr) };
}

/** A peer that tells where it serves Vortex has told so over gRPC; older ones serve pieces there too. */
const announcedAddresses: TaskSource["addressOf"] = (
  { quicAddr, tcpAddr },
  apiAddr,
): PeerAddresses => ({
  ...(quicAddr !== undefined && { quic: quicAddr }),
  ...(tcpAddr !== undefined && { tcp: tcpAddr }),
  grpc: apiAddr,
});

import type { Piece } from "../piece.ts";
import type { PieceLocation } from "../task/discovery.ts";
import type { TaskSource } from "../task/source.ts";
import { isIPv6, isIpAddress, parseAddress, unmapped } from "../transport/address.ts";
import { addressFor, type PeerAddresses } from "../transport/peer-address.ts";
import type { ExcludedProtocol, Protocol } from "../transport/protocol.ts";
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

/**
 * Creates a {@link PieceSource} that fetches all pieces over one protocol.
 *
 * @param quicRestriction reason why a QUIC port that a parent announces is not dialled, unless the
 * parent shows that it runs this library. Undefined to dial every announced port
 */
export function singleProtocolSource(
  protocol: Protocol,
  downloader: PieceDownloader,
  quicRestriction?: ExcludedProtocol,
): PieceSource {
  const restriction = protocol === "quic" ? quicRestriction : undefined;
  return {
    downloadPiece: async (options) =>
      downloader.downloadPiece({ ...options, addr: addressFor(options.addr, protocol) }),
    close: () => downloader.close(),
    fetchPiece: ({ addresses: _, ...request }, options) =>
      downloader.downloadPiece({ ...request, ...options }),
    resolve: (addr) => addressFor(addr, protocol),
    addressOf(location, apiAddr) {
      if (protocol !== "quic") return location.tcpAddr;
      return restriction === undefined || servesQuic(location, apiAddr)
        ? location.quicAddr
        : undefined;
    },
    // An address that the caller names is dialled.
    excluded: (addr) => (addr === undefined && restriction !== undefined ? [restriction] : []),
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
    addressOf(location, apiAddr) {
      if (location.quicAddr !== undefined && servesQuic(location, apiAddr))
        downloader.permitQuic(location.quicAddr);
      return announcedAddresses(location, apiAddr);
    },
    usesGrpc: false,
  };
}

/**
 * Creates a {@link PieceSource} for protocol `hybrid`. It fetches a task over all protocols of a
 * peer at once, and single pieces over the best protocol.
 */
export function hybridSource(downloader: AutoDownloader): PieceSource {
  return {
    ...autoSource(downloader),
    protocolsOf: (addr, announcing) => downloader.protocolsOf(addr, announcing),
  };
}

/**
 * Returns true if a parent's response shows that a QUIC server of this library listens at the
 * announced address. It must be on the host that responds. Another host may run a dfdaemon that
 * exits on a failed handshake, and the parent could name it on purpose.
 */
function servesQuic({ quicAddr, vortexPeer }: PieceLocation, apiAddr: string): boolean {
  return vortexPeer === true && quicAddr !== undefined && hostOf(quicAddr) === hostOf(apiAddr);
}

/** Returns the host of an address, in a form in which equal hosts are equal texts. */
function hostOf(addr: string): string {
  const host = unmapped(parseAddress(addr).host);
  return isIPv6(host) && isIpAddress(host) ? new URL(`http://[${host}]`).hostname : host;
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

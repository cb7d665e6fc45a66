import type { Client, CallOptions as ConnectCallOptions } from "@connectrpc/connect";
import { requireInteger } from "../../arguments.ts";
import { remoteText, VortexError } from "../../errors.ts";
import type { DfdaemonUpload } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { PieceKind } from "../../piece.ts";
import { type Address, formatAddress, isIpAddress } from "../../transport/address.ts";
import type { PieceExtent } from "./piece-layout.ts";

/** Request for the list of pieces that a peer has of a task (RPC method SyncPieces). */
export interface SyncRequest {
  /** Id of the task. */
  readonly taskId: string;
  /** Id of the requesting host. */
  readonly hostId: string;
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind | undefined;
  /**
   * Numbers of the requested pieces. Default: all pieces. A stock peer announces no piece by
   * default, so always pass the numbers to it.
   */
  readonly interestedPieceNumbers?: readonly number[] | undefined;
  /** Length of the task in bytes, if known. The announced pieces are checked against it. */
  readonly contentLength?: number | undefined;
  /**
   * Length in bytes of each piece except the last, if known. The announced pieces are checked
   * against it.
   */
  readonly pieceLength?: number | undefined;
}

/** Piece that a peer has, with the addresses at which the peer serves the piece. */
export interface AnnouncedPiece extends PieceExtent {
  /**
   * Address of the peer for Vortex over TCP, `host:port`. Absent if the peer announces no such
   * address. Not verified: the peer can announce the address of any host.
   */
  readonly tcpAddr?: string;
  /**
   * Address of the peer for Vortex over QUIC, `host:port`. Absent if the peer announces no such
   * address. Not verified: the peer can announce the address of any host.
   */
  readonly quicAddr?: string;
  /**
   * True if the response has the header `vortex-peer: 1`, which the servers of this library send.
   * Absent otherwise. Not authenticated.
   */
  readonly vortexPeer?: true;
}

/**
 * Message in the response stream of SyncPieces, or of its variants for other kinds of task. The
 * variant for kind `cache` has no addresses.
 */
export interface SyncAnswer {
  readonly number: number;
  readonly offset: bigint;
  readonly length: bigint;
  readonly ip?: string;
  readonly tcpPort?: number | undefined;
  readonly quicPort?: number | undefined;
}

/**
 * Calls SyncPieces, or its variant for the kind of the task. Returns the messages of the response.
 */
export function syncCall(
  client: Client<typeof DfdaemonUpload>,
  { kind = "standard", hostId, taskId, interestedPieceNumbers = [] }: SyncRequest,
  options: ConnectCallOptions,
): AsyncIterable<SyncAnswer> {
  const request = { hostId, taskId, interestedPieceNumbers: [...interestedPieceNumbers] };
  switch (kind) {
    case "standard":
      return client.syncPieces(request, options);
    case "persistent":
      return client.syncPersistentPieces(request, options);
    case "persistent-cache":
      return client.syncPersistentCachePieces(request, options);
    case "cache":
      return client.syncCachePieces(
        { hostId, taskId, interestedCachePieceNumbers: request.interestedPieceNumbers },
        options,
      );
  }
}

/**
 * Maximum number of piece numbers in one SyncPieces request. A piece number takes at most 5 bytes.
 * So a request is shorter than 256 KiB, the limit of this library's server, and than 4 MiB, the
 * limit of stock peers (tonic's default).
 */
const MAX_NUMBERS_PER_REQUEST = 50_000;

/**
 * Splits a SyncPieces request into requests with at most {@link MAX_NUMBERS_PER_REQUEST} piece
 * numbers each. Returns at least one request.
 */
export function requestsFor(request: SyncRequest): readonly SyncRequest[] {
  const { interestedPieceNumbers: numbers = [] } = request;
  if (numbers.length <= MAX_NUMBERS_PER_REQUEST) return [request];
  return Array.from({ length: Math.ceil(numbers.length / MAX_NUMBERS_PER_REQUEST) }, (_, part) => ({
    ...request,
    interestedPieceNumbers: numbers.slice(
      part * MAX_NUMBERS_PER_REQUEST,
      (part + 1) * MAX_NUMBERS_PER_REQUEST,
    ),
  }));
}

/**
 * Returns the piece numbers that the request names, or undefined if it requests all pieces.
 *
 * @throws `InvalidArgument` if a piece number is not an unsigned 32-bit integer
 */
export function requestedNumbers({
  interestedPieceNumbers: numbers,
}: SyncRequest): ReadonlySet<number> | undefined {
  for (const number of numbers ?? []) requireInteger("piece number", number, 0, 0xffffffff);
  return numbers === undefined || numbers.length === 0 ? undefined : new Set(numbers);
}

/**
 * Returns the addresses that the peer at `remote` announced for Vortex. If the peer announced no IP
 * address, or an unspecified one such as `0.0.0.0`, the host of `remote` is used.
 *
 * @throws `ProtocolViolation` if the announced IP address or port is invalid
 */
export function announcedAddresses(
  answer: SyncAnswer,
  remote: Address,
): Pick<AnnouncedPiece, "tcpAddr" | "quicAddr"> {
  const { ip = "", tcpPort, quicPort } = answer;
  if (ip !== "" && !isIpAddress(ip)) {
    throw new VortexError(
      "ProtocolViolation",
      `announced host: expected an IP address, got "${remoteText(ip, 80)}"`,
      { addr: formatAddress(remote) },
    );
  }
  // A peer that listens on all addresses may announce 0.0.0.0 or ::.
  const host = ip === "" || /^[0.:]+$/.test(ip) ? remote.host : ip;
  const at = (port: number | undefined): string | undefined => {
    if (port === undefined || port === 0) return undefined;
    if (port > 0 && port <= 65535) return formatAddress({ host, port });
    throw new VortexError("ProtocolViolation", `announced port: expected 0 to 65535, got ${port}`, {
      addr: formatAddress(remote),
    });
  };
  const tcpAddr = at(tcpPort);
  const quicAddr = at(quicPort);
  return { ...(tcpAddr !== undefined && { tcpAddr }), ...(quicAddr !== undefined && { quicAddr }) };
}

import type { Client, CallOptions as ConnectCallOptions } from "@connectrpc/connect";
import { remoteText, VortexError } from "../../errors.ts";
import type { DfdaemonUpload } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { type PieceKind, requireInteger } from "../../piece.ts";
import { formatAddress, parseAddress } from "../../transport/address.ts";
import type { PieceExtent } from "./piece-layout.ts";

/** Request for the list of a task's pieces that a peer has. */
export interface SyncRequest {
  /** Id of the task. */
  readonly taskId: string;
  /** Id of the requesting host. */
  readonly hostId: string;
  /** Kind of the task. Default `standard`. */
  readonly kind?: PieceKind;
  /**
   * Numbers of the pieces of interest. Default: all. Stock peers announce nothing by default, so
   * ask them by number.
   */
  readonly interestedPieceNumbers?: readonly number[];
  /** Length of the task in bytes, if known; announcements are checked against it. */
  readonly contentLength?: number;
  /** Length in bytes of each piece except the last, if known. */
  readonly pieceLength?: number;
}

/** Piece that a peer has, with the addresses where the peer serves it. */
export interface AnnouncedPiece extends PieceExtent {
  /**
   * Address of the peer's Vortex server over TCP, `host:port`, if it has one. Not verified: the
   * peer can name any host.
   */
  readonly tcpAddr?: string;
  /** Address of the peer's Vortex server over QUIC, `host:port`, if it has one. Not verified. */
  readonly quicAddr?: string;
}

/**
 * Message of a SyncPieces answer, or of its variants for other kinds of task. The variant for kind
 * `cache` carries no addresses.
 */
export interface SyncAnswer {
  readonly number: number;
  readonly offset: bigint;
  readonly length: bigint;
  readonly ip?: string;
  readonly tcpPort?: number | undefined;
  readonly quicPort?: number | undefined;
}

/** Calls the method for the task's kind. */
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
 * Maximum number of piece numbers in one request. Each takes at most 5 bytes. So the request stays
 * within the 256 KiB limit of this library's server, and the 4 MiB of stock peers (tonic's
 * default).
 */
const MAX_NUMBERS_PER_REQUEST = 50_000;

/** Splits a request into one or more with at most {@link MAX_NUMBERS_PER_REQUEST} numbers each. */
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

/** Returns the set of requested numbers; undefined for all. @throws `InvalidArgument` */
export function requestedNumbers({
  interestedPieceNumbers: numbers,
}: SyncRequest): ReadonlySet<number> | undefined {
  for (const number of numbers ?? []) requireInteger("piece number", number, 0, 0xffffffff);
  return numbers === undefined || numbers.length === 0 ? undefined : new Set(numbers);
}

/**
 * Returns the announced Vortex addresses of the peer at `addr`. Its own host is filled in where it
 * announces none, or an unspecified address.
 *
 * @throws `ProtocolViolation` for an invalid IP address or port
 */
export function announcedAddresses(
  answer: SyncAnswer,
  addr: string,
): Pick<AnnouncedPiece, "tcpAddr" | "quicAddr"> {
  const { ip = "", tcpPort, quicPort } = answer;
  if (ip !== "" && !isIp(ip)) {
    throw new VortexError(
      "ProtocolViolation",
      `announced host: expected an IP address, got "${remoteText(ip, 80)}"`,
      { addr },
    );
  }
  // A peer that listens on all addresses may announce 0.0.0.0 or ::.
  const host = ip === "" || /^[0.:]+$/.test(ip) ? parseAddress(addr).host : ip;
  const at = (port: number | undefined): string | undefined => {
    if (port === undefined || port === 0) return undefined;
    if (port > 0 && port <= 65535) return formatAddress({ host, port });
    throw new VortexError("ProtocolViolation", `announced port: expected 0 to 65535, got ${port}`, {
      addr,
    });
  };
  const tcpAddr = at(tcpPort);
  const quicAddr = at(quicPort);
  return { ...(tcpAddr !== undefined && { tcpAddr }), ...(quicAddr !== undefined && { quicAddr }) };
}

function isIp(text: string): boolean {
  return text.includes(":")
    ? /^[0-9a-f:.]+$/i.test(text) && URL.canParse(`http://[${text}]/`)
    : /^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?=\d)|$)){4}$/.test(text);
}

import type { Client, CallOptions as ConnectCallOptions } from "@connectrpc/connect";
import { remoteText, VortexError } from "../../errors.ts";
import type { DfdaemonUpload } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { type PieceKind, requireInteger } from "../../piece.ts";
import { formatAddress, parseAddress } from "../../transport/address.ts";
import type { PieceExtent } from "./piece-layout.ts";

/** Which pieces of which task a peer is asked about. */
export interface SyncRequest {
  /** The task. */
  readonly taskId: string;
  /** The asking host's id. */
  readonly hostId: string;
  /** Default `standard`. */
  readonly kind?: PieceKind;
  /** The pieces wanted, by number. Default: all; of those stock peers tell nothing, and have to be asked by number. */
  readonly interestedPieceNumbers?: readonly number[];
  /** Bytes of the task, if known; what a peer announces is checked against it. */
  readonly contentLength?: number;
  /** Bytes of each piece but the last, if known. */
  readonly pieceLength?: number;
}

/** A piece that a peer has, and where it serves it. */
export interface AnnouncedPiece extends PieceExtent {
  /** `host:port` of its Vortex server over TCP, if it has one. It is the peer's word: it may name another host. */
  readonly tcpAddr?: string;
  /** `host:port` of its Vortex server over QUIC, if it has one. */
  readonly quicAddr?: string;
}

/** An answer of SyncPieces or a twin; that for tasks of kind `cache` names no address. */
export interface SyncAnswer {
  readonly number: number;
  readonly offset: bigint;
  readonly length: bigint;
  readonly ip?: string;
  readonly tcpPort?: number | undefined;
  readonly quicPort?: number | undefined;
}

/** Makes the call for the task's kind. */
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
 * Numbers in one request. Each takes at most 5 bytes, so the request stays within the 256 KiB that a server of this project reads,
 * and far within the 4 MiB of stock peers (tonic's default).
 */
const MAX_NUMBERS = 50_000;

/** The request, cut so that none asks for too many numbers. Always at least one. */
export function requestsFor(request: SyncRequest): readonly SyncRequest[] {
  const { interestedPieceNumbers: numbers = [] } = request;
  if (numbers.length <= MAX_NUMBERS) return [request];
  return Array.from({ length: Math.ceil(numbers.length / MAX_NUMBERS) }, (_, part) => ({
    ...request,
    interestedPieceNumbers: numbers.slice(part * MAX_NUMBERS, (part + 1) * MAX_NUMBERS),
  }));
}

/** The numbers asked for, or undefined for all. @throws `InvalidArgument` */
export function requestedNumbers({
  interestedPieceNumbers: numbers,
}: SyncRequest): ReadonlySet<number> | undefined {
  for (const number of numbers ?? []) requireInteger("piece number", number, 0, 0xffffffff);
  return numbers === undefined || numbers.length === 0 ? undefined : new Set(numbers);
}

/**
 * Where the peer at `addr` serves the piece that it announced.
 * @throws `ProtocolViolation`
 */
export function announcedAddresses(
  answer: SyncAnswer,
  addr: string,
): Pick<AnnouncedPiece, "tcpAddr" | "quicAddr"> {
  const { ip = "", tcpPort, quicPort } = answer;
  if (ip !== "" && !isIp(ip)) {
    throw new VortexError(
      "ProtocolViolation",
      `"${remoteText(ip, 80)}" announced: expected an IP address`,
      { addr },
    );
  }
  // A peer that listens on every address may name none in particular.
  const host = ip === "" || /^[0.:]+$/.test(ip) ? parseAddress(addr).host : ip;
  const at = (port: number | undefined): string | undefined => {
    if (port === undefined || port === 0) return undefined;
    if (port > 0 && port <= 65535) return formatAddress({ host, port });
    throw new VortexError("ProtocolViolation", `port ${port} announced`, { addr });
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

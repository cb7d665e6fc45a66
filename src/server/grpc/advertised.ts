import { hostId, peerId } from "../../ids.ts";
import type { Runtime } from "../../runtime.ts";

/** Addresses and names of this host that the gRPC server sends to peers in its responses. */
export interface AdvertisedHost {
  /** Port of the Vortex server over TCP. Default: responses contain no TCP port. */
  readonly tcpPort?: number;
  /** Port of the Vortex server over QUIC. Default: responses contain no QUIC port. */
  readonly quicPort?: number;
  /**
   * IP address at which peers reach this host. Default: the IP address of this host that the peer
   * connected to.
   */
  readonly advertisedIp?: string;
  /** Host name from which the host ID and peer ID in responses are built. Default `vortex-peer`. */
  readonly hostname?: string;
}

/** ID fields of each message in a response to DownloadTask or a variant. */
export interface ResponseIds {
  readonly hostId: string;
  readonly taskId: string;
  readonly peerId: string;
}

/**
 * Returns the ID fields of a response about a task. Each response has its own peer ID.
 *
 * @param localIp IP address of this host that the peer connected to
 */
export function responseIds(
  { advertisedIp: ip, hostname = "vortex-peer" }: AdvertisedHost,
  taskId: string,
  localIp: string,
  { random }: Pick<Runtime, "random">,
): ResponseIds {
  const host = { ip: ip ?? localIp, hostname };
  return { hostId: hostId(host), taskId, peerId: peerId(host, random) };
}

/** Fields with the address of this host's Vortex servers in a response to SyncPieces. */
export interface PieceAddress {
  readonly ip: string;
  readonly tcpPort?: number;
  readonly quicPort?: number;
}

/**
 * Returns the fields with the address of this host's Vortex servers.
 *
 * @param localIp IP address of this host that the peer connected to
 */
export function pieceAddress(
  { advertisedIp, tcpPort, quicPort }: AdvertisedHost,
  localIp: string,
): PieceAddress {
  return {
    ip: advertisedIp ?? localIp,
    ...(tcpPort !== undefined && { tcpPort }),
    ...(quicPort !== undefined && { quicPort }),
  };
}

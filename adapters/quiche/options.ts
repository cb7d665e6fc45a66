import { requireInteger } from "../../src/piece.ts";
import type { NativeConfig } from "./native.ts";
import { automaticSize } from "./path-mtu.ts";

/** Tuning of QUIC; the defaults suit local networks and long links. */
export interface QuicheOptions {
  /**
   * Congestion control. Default `bbr`: over 50 ms and 1 % loss it moves 19 MB/s where `cubic` moves 0.5, for 15 % less
   * on loopback.
   */
  readonly congestionControl?: "bbr" | "cubic" | "reno";
  /**
   * Greatest UDP payload that is sent, in bytes, 1,200 to 16,383. The cost is by packet, so more is faster, where the path carries
   * it: above 1,350 that is found out with one datagram, and if large ones vanish later, 1,350 is what remains. Default `auto`:
   * 16,000 between programs of one host, three times as fast as 1,350, and 1,452 elsewhere, what Ethernet carries. With
   * jumbo frames of 9,000 bytes take 8,952.
   */
  readonly udpPayloadSize?: number | "auto";
  /** Bytes that a peer may send on one stream before they are read. Default 16 MiB. */
  readonly streamWindow?: number;
  /**
   * Bytes that a peer may send on one connection before they are read. Default: the windows of its streams together. With less, a
   * reader that stops holds all others of its connection once so many bytes have come, since quiche 0.18 makes room only when nearly
   * all of them have been read.
   */
  readonly connectionWindow?: number;
  /** Send and receive buffers of the UDP socket, in bytes; the kernel may grant less. Default 4 MiB. */
  readonly socketBuffer?: number;
  /**
   * Datagrams that are taken in before they are acknowledged, 1 to 64, or fewer after a millisecond. Each acknowledgement costs both
   * sides a packet; few of them make a sender learn of losses and room later. Default 8.
   */
  readonly ackThreshold?: number;
  /** Milliseconds of silence after which a connection is lost. Default 60,000, as stock peers. */
  readonly idleTimeout?: number;
  /** Milliseconds of silence after which a client asks whether the peer is there. Default 3,000, as stock peers. */
  readonly keepAlive?: number;
  /** Milliseconds for a client to finish its handshake with a server. Default 10,000. */
  readonly handshakeTimeout?: number;
  /**
   * When a server makes a client prove its address first (RFC 9000, section 8.1.2), which costs a round trip: `always`,
   * `never`, or from so many unfinished handshakes on. Default 64.
   */
  readonly retry?: "always" | "never" | number;
}

/** {@link QuicheOptions} with the defaults filled in. */
export type QuicheSettings = Required<QuicheOptions>;

/** More than a connection ever carries. */
const NO_WINDOW = Number.MAX_SAFE_INTEGER;

/** quiche makes no larger packet, so that its length takes two bytes. */
const MAX_UDP_PAYLOAD = 16_383;

/** Protocol name in the handshake, between peers of this library. Stock peers have none. */
export const ALPN = "vortex";

/**
 * Fills the defaults in.
 * @throws `InvalidArgument` for a value out of its range
 */
export function quicheSettings(options: QuicheOptions = {}): QuicheSettings {
  const settings: QuicheSettings = {
    congestionControl: options.congestionControl ?? "bbr",
    udpPayloadSize: options.udpPayloadSize ?? "auto",
    streamWindow: options.streamWindow ?? 16 * 1024 * 1024,
    connectionWindow: options.connectionWindow ?? NO_WINDOW,
    socketBuffer: options.socketBuffer ?? 4 * 1024 * 1024,
    ackThreshold: options.ackThreshold ?? 8,
    idleTimeout: options.idleTimeout ?? 60_000,
    keepAlive: options.keepAlive ?? 3_000,
    handshakeTimeout: options.handshakeTimeout ?? 10_000,
    retry: options.retry ?? 64,
  };
  if (settings.udpPayloadSize !== "auto")
    requireInteger("udpPayloadSize", settings.udpPayloadSize, 1200, MAX_UDP_PAYLOAD);
  requireInteger("streamWindow", settings.streamWindow, 16 * 1024, 2 ** 32);
  requireInteger("connectionWindow", settings.connectionWindow, 16 * 1024, NO_WINDOW);
  requireInteger("socketBuffer", settings.socketBuffer, 4096, 2 ** 30);
  requireInteger("ackThreshold", settings.ackThreshold, 1, 64);
  requireInteger("idleTimeout", settings.idleTimeout, 100, 3_600_000);
  requireInteger("keepAlive", settings.keepAlive, 50, 3_600_000);
  requireInteger("handshakeTimeout", settings.handshakeTimeout, 100, 600_000);
  if (typeof settings.retry === "number") requireInteger("retry", settings.retry, 0, 1_000_000);
  return settings;
}

/** The greatest UDP payload to try towards a peer, see {@link QuicheOptions.udpPayloadSize}. */
export function payloadSizeFor(settings: QuicheSettings, sameHost: boolean): number {
  return settings.udpPayloadSize === "auto" ? automaticSize(sameHost) : settings.udpPayloadSize;
}

/** Bytes that a client may have under way on one stream towards a server. */
const REQUEST_WINDOW = 64 * 1024;

/** The same for listening: what clients send are requests, and each may leave a window full in memory. */
export function listenSettings(settings: QuicheSettings): QuicheSettings {
  return { ...settings, streamWindow: Math.min(settings.streamWindow, REQUEST_WINDOW) };
}

/** Bytes read after which a peer is told of the room at once: well before it has used up what it knows of. */
export function windowThreshold({ streamWindow, connectionWindow }: QuicheSettings): number {
  return Math.min(streamWindow, connectionWindow) / 4;
}

/** Writes the settings that both sides share into a native configuration, for paths of one size. */
export function applySettings(
  config: NativeConfig,
  settings: QuicheSettings,
  maxStreams: number,
  payloadSize: number,
): void {
  config.setApplicationProtos([ALPN]);
  config.setMaxIdleTimeout(settings.idleTimeout);
  // What is taken in is not bounded by what is sent: a peer may have a larger path towards here.
  config.setMaxRecvUdpPayloadSize(65527);
  config.setMaxSendUdpPayloadSize(payloadSize);
  config.setInitialMaxData(settings.connectionWindow);
  config.setInitialMaxStreamDataBidiLocal(settings.streamWindow);
  config.setInitialMaxStreamDataBidiRemote(settings.streamWindow);
  config.setInitialMaxStreamDataUni(0);
  config.setInitialMaxStreamsBidi(maxStreams);
  config.setInitialMaxStreamsUni(0);
  config.setMaxStreamWindow(settings.streamWindow);
  config.setMaxConnectionWindow(settings.connectionWindow);
  config.setCcAlgorithmName(settings.congestionControl);
  config.setActiveConnectionIdLimit(4);
  config.setDisableActiveMigration(false);
  config.enablePacing(false);
}

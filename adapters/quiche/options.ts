import { requireInteger } from "../../src/piece.ts";
import type { NativeConfig } from "./native.ts";
import { defaultUdpPayload } from "./path-mtu.ts";

/** Tuning of QUIC on quiche. The defaults suit both local networks and long links. */
export interface QuicheOptions {
  /**
   * Congestion control algorithm. Default `bbr`: over 50 ms and 1 % loss it moves 19 MB/s, against
   * 0.5 with `cubic`. On loopback it is 15 % slower.
   */
  readonly congestionControl?: "bbr" | "cubic" | "reno";
  /**
   * Maximum UDP payload to send, in bytes, 1,200 to 16,383. CPU cost is per packet, so larger is
   * faster where the path carries it. A size above 1,350 is probed with one datagram first. If
   * large datagrams vanish later, the size falls back to 1,350.
   *
   * Default `auto`: 16,000 between programs on one host, three times as fast as 1,350; otherwise
   * 1,452, which fits Ethernet. Use 8,952 with jumbo frames of 9,000 bytes.
   */
  readonly udpPayloadSize?: number | "auto";
  /**
   * Flow-control window of a stream: bytes the peer may send before they are read. Default 16 MiB.
   */
  readonly streamWindow?: number;
  /**
   * Flow-control window of a connection, in bytes. Default: unlimited, so the stream windows
   * decide.
   *
   * A smaller window lets one stopped reader block all other streams of its connection. The cause:
   * quiche 0.18 returns credit only when nearly the whole window has been read.
   */
  readonly connectionWindow?: number;
  /**
   * Send and receive buffers of the UDP socket, in bytes. The kernel may grant less. Default 4 MiB.
   */
  readonly socketBuffer?: number;
  /**
   * Datagrams received before an acknowledgement is sent, 1 to 64; after 1 ms it is sent for fewer.
   * Each acknowledgement costs both sides a packet. A high value delays loss detection and credit.
   * Default 8.
   */
  readonly ackThreshold?: number;
  /** Idle timeout of a connection in ms. Default 60,000, like dfdaemon. */
  readonly idleTimeout?: number;
  /** Silence in ms after which a client sends a PING. Default 3,000, like dfdaemon. */
  readonly keepAlive?: number;
  /** Time in ms that a server gives a client for the handshake. Default 10,000. */
  readonly handshakeTimeout?: number;
  /**
   * Address validation by Retry (RFC 9000, section 8.1.2), which costs a round trip. A number is
   * the count of half-open connections from which a server requires it. Default 64.
   */
  readonly retry?: "always" | "never" | number;
}

/** {@link QuicheOptions} with all defaults applied. */
export type QuicheSettings = Required<QuicheOptions>;

/** Window in bytes that no connection uses up. */
const UNLIMITED_WINDOW_BYTES = Number.MAX_SAFE_INTEGER;

/**
 * Maximum UDP payload that quiche sends, in bytes: the packet length must fit a two-byte varint.
 */
const MAX_UDP_PAYLOAD_BYTES = 16_383;

/** Application protocol (ALPN) of connections between peers of this library; dfdaemon sets none. */
export const ALPN = "vortex";

/**
 * Applies the defaults.
 *
 * @throws `InvalidArgument` for a value out of range
 */
export function quicheSettings(options: QuicheOptions = {}): QuicheSettings {
  const settings: QuicheSettings = {
    congestionControl: options.congestionControl ?? "bbr",
    udpPayloadSize: options.udpPayloadSize ?? "auto",
    streamWindow: options.streamWindow ?? 16 * 1024 * 1024,
    connectionWindow: options.connectionWindow ?? UNLIMITED_WINDOW_BYTES,
    socketBuffer: options.socketBuffer ?? 4 * 1024 * 1024,
    ackThreshold: options.ackThreshold ?? 8,
    idleTimeout: options.idleTimeout ?? 60_000,
    keepAlive: options.keepAlive ?? 3_000,
    handshakeTimeout: options.handshakeTimeout ?? 10_000,
    retry: options.retry ?? 64,
  };
  if (settings.udpPayloadSize !== "auto")
    requireInteger("udpPayloadSize", settings.udpPayloadSize, 1200, MAX_UDP_PAYLOAD_BYTES);
  requireInteger("streamWindow", settings.streamWindow, 16 * 1024, 2 ** 32);
  requireInteger("connectionWindow", settings.connectionWindow, 16 * 1024, UNLIMITED_WINDOW_BYTES);
  requireInteger("socketBuffer", settings.socketBuffer, 4096, 2 ** 30);
  requireInteger("ackThreshold", settings.ackThreshold, 1, 64);
  requireInteger("idleTimeout", settings.idleTimeout, 100, 3_600_000);
  requireInteger("keepAlive", settings.keepAlive, 50, 3_600_000);
  requireInteger("handshakeTimeout", settings.handshakeTimeout, 100, 600_000);
  if (typeof settings.retry === "number") requireInteger("retry", settings.retry, 0, 1_000_000);
  return settings;
}

/**
 * Returns the maximum UDP payload for a peer in bytes, see {@link QuicheOptions.udpPayloadSize}.
 */
export function udpPayloadFor(settings: QuicheSettings, sameHost: boolean): number {
  return settings.udpPayloadSize === "auto" ? defaultUdpPayload(sameHost) : settings.udpPayloadSize;
}

/** Maximum stream window of a server in bytes: clients send only requests. */
const MAX_REQUEST_WINDOW_BYTES = 64 * 1024;

/**
 * Reduces the stream window for a server. Clients send only requests, and each stream may leave a
 * full window in memory.
 */
export function quicheServerSettings(settings: QuicheSettings): QuicheSettings {
  return { ...settings, streamWindow: Math.min(settings.streamWindow, MAX_REQUEST_WINDOW_BYTES) };
}

/**
 * Returns the number of read bytes after which a window update is sent without delay. It is a
 * quarter of the smaller window, so that the peer never runs out of credit.
 */
export function windowThreshold({ streamWindow, connectionWindow }: QuicheSettings): number {
  return Math.min(streamWindow, connectionWindow) / 4;
}

/**
 * Applies the settings that clients and servers share to a native configuration.
 *
 * @param maxStreams concurrent streams that the peer may open
 * @param payloadSize maximum UDP payload to send, in bytes
 */
export function applySettings(
  config: NativeConfig,
  settings: QuicheSettings,
  maxStreams: number,
  payloadSize: number,
): void {
  config.setApplicationProtos([ALPN]);
  config.setMaxIdleTimeout(settings.idleTimeout);
  // The peer's sending path may be larger than ours, so the receive limit is the maximum.
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

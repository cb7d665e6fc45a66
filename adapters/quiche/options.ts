import { requireInteger } from "../../src/arguments.ts";
import type { Resolved } from "../../src/resolved.ts";
import type { NativeConfig } from "./native.ts";
import { defaultUdpPayload } from "./path-mtu.ts";

/**
 * Tuning of the QUIC transport that uses quiche. The defaults suit both local networks and links
 * with a long round-trip time.
 */
export interface QuicheOptions {
  /**
   * Congestion control algorithm. Default `bbr`. At a round-trip time of 50 ms and 1 % packet loss,
   * `bbr` transfers 19 MB/s and `cubic` 0.5 MB/s. On loopback, `bbr` is 15 % slower than `cubic`.
   */
  readonly congestionControl?: "bbr" | "cubic" | "reno" | undefined;
  /**
   * Maximum UDP payload to send, in bytes, 1,200 to 16,383. Each packet costs nearly the same CPU
   * time whatever its size, so large packets are faster on paths that carry them. A size above
   * 1,350 is first probed with one datagram. If large datagrams are lost later, the size falls back
   * to 1,350.
   *
   * With the default `auto`, the size is 16,000 if both peers are on the same host, which is three
   * times as fast as 1,350. Otherwise it is 1,452, which fits Ethernet. Set 8,952 for networks with
   * jumbo frames of 9,000 bytes.
   */
  readonly udpPayloadSize?: number | "auto" | undefined;
  /**
   * Flow-control window of a stream in bytes. The peer may send at most this many bytes that the
   * application has not read. A server uses at most 64 KiB, since clients send only requests.
   * Default 16 MiB.
   */
  readonly streamWindow?: number | undefined;
  /**
   * Flow-control window of a connection, in bytes. By default it is unlimited, so only the windows
   * of the streams limit the peer.
   *
   * With a smaller window, a stream that is not read can block all other streams of its connection.
   * The cause is that quiche 0.18 returns credit only when nearly the whole window has been read.
   */
  readonly connectionWindow?: number | undefined;
  /**
   * Size in bytes of the kernel's send buffer for the UDP socket, and also of its receive buffer.
   * The kernel may grant less. Default 4 MiB.
   */
  readonly socketBuffer?: number | undefined;
  /**
   * Number of received datagrams after which an acknowledgement is sent at once, 1 to 64. For fewer
   * datagrams, the acknowledgement is sent after 1 ms. Each acknowledgement costs both sides a
   * packet. A high value delays loss detection and the return of flow-control credit. Default 8.
   */
  readonly ackThreshold?: number | undefined;
  /** Idle timeout of a connection in ms (RFC 9000, section 10.1). Default 60,000, like dfdaemon. */
  readonly idleTimeout?: number | undefined;
  /**
   * Keep-alive interval in ms: a client that has received nothing for this time sends a PING frame.
   * Default 3,000, like dfdaemon.
   */
  readonly keepAlive?: number | undefined;
  /**
   * Time in ms within which a client must complete the handshake. If the handshake takes longer,
   * the server refuses the connection. Default 10,000.
   */
  readonly handshakeTimeout?: number | undefined;
  /**
   * Address validation with Retry packets on a server (RFC 9000, section 8.1.2). It costs the
   * client a round trip.
   *
   * - `always`: the server sends a Retry packet for every new connection.
   * - `never`: the server sends no Retry packets.
   * - A number: the server sends Retry packets while it has at least this many half-open
   *   connections. A connection is half-open until its handshake is complete. Default 64.
   */
  readonly retry?: "always" | "never" | number | undefined;
}

/** {@link QuicheOptions} with a value for every option. */
export type QuicheSettings = Resolved<QuicheOptions>;

/** Connection window in bytes that stands for "unlimited": no connection can use it up. */
const UNLIMITED_WINDOW_BYTES = Number.MAX_SAFE_INTEGER;

/**
 * Maximum UDP payload that quiche can send, in bytes. quiche encodes the packet length as a
 * two-byte varint.
 */
const MAX_UDP_PAYLOAD_BYTES = 16_383;

/**
 * Application protocol name (ALPN) that peers of this library offer in the QUIC handshake. dfdaemon
 * offers no ALPN.
 */
export const ALPN = "vortex";

/**
 * Fills in the default of each option that is not set.
 *
 * @throws `InvalidArgument` if an option is out of range
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
 * Returns the maximum UDP payload in bytes to send to a peer, see
 * {@link QuicheOptions.udpPayloadSize}.
 *
 * @param sameHost true if the peer runs on this host, where the default is larger
 */
export function udpPayloadFor(settings: QuicheSettings, sameHost: boolean): number {
  return settings.udpPayloadSize === "auto" ? defaultUdpPayload(sameHost) : settings.udpPayloadSize;
}

/**
 * Maximum flow-control window in bytes of a stream on a server, since clients send only requests.
 */
const MAX_REQUEST_WINDOW_BYTES = 64 * 1024;

/**
 * Returns `settings` with the stream window limited to {@link MAX_REQUEST_WINDOW_BYTES}, for a
 * server. Clients send only requests, and each stream may fill its window with unread bytes in
 * memory.
 */
export function quicheServerSettings(settings: QuicheSettings): QuicheSettings {
  return { ...settings, streamWindow: Math.min(settings.streamWindow, MAX_REQUEST_WINDOW_BYTES) };
}

/**
 * Returns the number of bytes to read from a connection before a window update is sent without
 * delay. It is a quarter of the smaller flow-control window, so the peer does not run out of
 * credit.
 */
export function windowThreshold({ streamWindow, connectionWindow }: QuicheSettings): number {
  return Math.min(streamWindow, connectionWindow) / 4;
}

/**
 * Applies the settings that clients and servers share to a configuration of quiche.
 *
 * @param maxStreams maximum number of concurrent streams that the peer may open on a connection
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

import { requireInteger } from "../../src/piece.ts";
import { ALPN } from "../quiche/options.ts";
import type { NativeTransportOptions } from "./native.ts";

/**
 * Tuning of Deno's QUIC. Its flow-control windows are fixed: 1.25 MB per stream, which is 25 MB/s
 * at a round-trip time of 50 ms, and no limit per connection beyond its streams.
 *
 * @experimental Like Deno's QUIC itself.
 */
export interface DenoQuicOptions {
  /**
   * Congestion control algorithm. Default `adaptive`: CUBIC for a server that listens on loopback,
   * where nothing is lost and BBR is a quarter slower; otherwise BBR. Over 50 ms and 1 % loss BBR
   * moves 10 MB/s, CUBIC 0.4.
   */
  readonly congestionControl?: "adaptive" | "bbr" | "cubic";
  /** Idle timeout of a connection in ms. Default 60,000, like dfdaemon. */
  readonly idleTimeout?: number;
  /** Silence in ms after which a client sends a PING. Default 3,000, like dfdaemon. */
  readonly keepAlive?: number;
  /** Time in ms that a server gives a client for the handshake. Default 10,000. */
  readonly handshakeTimeout?: number;
  /**
   * Clients that a server accepts.
   *
   * - `vortex`, the default: peers of this library, which offer its ALPN.
   * - `stock`: dfdaemon, which offers no ALPN. Of this library's peers only those on Deno reach
   *   such a server, since QUIC on other runtimes requires an ALPN.
   *
   * One socket cannot serve both, since Deno does not let a server choose by the client's offer.
   * Clients need no such option: they try both.
   */
  readonly clients?: "vortex" | "stock";
}

/** {@link DenoQuicOptions} with all defaults applied. */
export type DenoQuicSettings = Required<DenoQuicOptions>;

/** ALPN offer of this library's peers. */
export const VORTEX_PROTOCOLS: readonly string[] = [ALPN];
/** ALPN offer of dfdaemon: none. */
export const STOCK_PROTOCOLS: readonly string[] = [];

/**
 * Applies the defaults.
 *
 * @throws `InvalidArgument` for a value out of range
 */
export function denoQuicSettings(options: DenoQuicOptions = {}): DenoQuicSettings {
  const settings: DenoQuicSettings = {
    congestionControl: options.congestionControl ?? "adaptive",
    idleTimeout: options.idleTimeout ?? 60_000,
    keepAlive: options.keepAlive ?? 3_000,
    handshakeTimeout: options.handshakeTimeout ?? 10_000,
    clients: options.clients ?? "vortex",
  };
  requireInteger("idleTimeout", settings.idleTimeout, 100, 3_600_000);
  requireInteger("keepAlive", settings.keepAlive, 50, 3_600_000);
  requireInteger("handshakeTimeout", settings.handshakeTimeout, 100, 600_000);
  return settings;
}

/**
 * Converts the settings that clients and servers share into Deno's format.
 *
 * @param maxStreams concurrent streams that the peer may open
 * @param loopback all peers run on this host
 */
export function nativeSettings(
  { congestionControl, idleTimeout }: DenoQuicSettings,
  maxStreams: number,
  loopback: boolean,
): NativeTransportOptions {
  const cubic = congestionControl === "cubic" || (congestionControl === "adaptive" && loopback);
  return {
    maxIdleTimeout: idleTimeout,
    maxConcurrentBidirectionalStreams: maxStreams,
    maxConcurrentUnidirectionalStreams: 0,
    congestionControl: cubic ? "throughput" : "low-latency",
  };
}

import { requireInteger } from "../../src/arguments.ts";
import type { Resolved } from "../../src/resolved.ts";
import { ALPN } from "../quiche/options.ts";
import type { NativeTransportOptions } from "./native.ts";

/**
 * Tuning of the QUIC transport that uses Deno's implementation. Its flow-control windows are fixed.
 * A stream has 1.25 MB, which permits 25 MB/s at a round-trip time of 50 ms. A connection has no
 * limit besides those of its streams.
 *
 * @experimental May change in a minor version, like Deno's QUIC itself.
 */
export interface DenoQuicOptions {
  /**
   * Congestion control algorithm. At a round-trip time of 50 ms and 1 % packet loss, BBR transfers
   * 10 MB/s and CUBIC 0.4 MB/s.
   *
   * The default `adaptive` uses CUBIC on a server that listens on a loopback address, where no
   * packet is lost and BBR is a quarter slower. Otherwise it uses BBR.
   */
  readonly congestionControl?: "adaptive" | "bbr" | "cubic" | undefined;
  /** Idle timeout of a connection in ms (RFC 9000, section 10.1). Default 60,000, like dfdaemon. */
  readonly idleTimeout?: number | undefined;
  /**
   * Keep-alive interval in ms: a client that has received nothing for this time sends a PING frame.
   * Default 3,000, like dfdaemon.
   */
  readonly keepAlive?: number | undefined;
  /**
   * Time in ms within which a client must complete the handshake. If the handshake takes longer,
   * the server closes the connection. Default 10,000.
   */
  readonly handshakeTimeout?: number | undefined;
  /**
   * Kind of clients that a server accepts. Clients need no such option, since they try both kinds.
   *
   * - `vortex`, the default: peers of this library, which offer its ALPN.
   * - `stock`: dfdaemon, which offers no ALPN. Peers of this library can reach such a server only
   *   from Deno, since QUIC on other runtimes requires an ALPN.
   *
   * One UDP socket cannot serve both kinds, since Deno does not let a server select the ALPN by the
   * client's offer.
   */
  readonly clients?: "vortex" | "stock" | undefined;
}

/** {@link DenoQuicOptions} with a value for every option. */
export type DenoQuicSettings = Resolved<DenoQuicOptions>;

/** Application protocols (ALPN) that peers of this library offer. */
export const VORTEX_PROTOCOLS: readonly string[] = [ALPN];
/** Application protocols (ALPN) that dfdaemon offers: an empty list. */
export const STOCK_PROTOCOLS: readonly string[] = [];

/**
 * Fills in the default of each option that is not set.
 *
 * @throws `InvalidArgument` if an option is out of range
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
 * Converts the settings that clients and servers share to Deno's format.
 *
 * @param maxStreams maximum number of concurrent streams that the peer may open on a connection
 * @param loopback true if all peers run on this host, which `adaptive` congestion control depends
 * on
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

import { requireInteger } from "../../src/piece.ts";
import { ALPN } from "../quiche/options.ts";
import type { NativeTransportOptions } from "./native.ts";

/**
 * Tuning of Deno's QUIC. Its windows of flow control cannot be set: 1.25 MB on a stream, which is 25 MB/s over a round trip of
 * 50 ms, and no bound on a connection but that of its streams.
 *
 * @experimental As Deno's QUIC is.
 */
export interface DenoQuicOptions {
  /**
   * Congestion control. Default `adaptive`: CUBIC for a server that listens on loopback, where nothing is lost and BBR moves a quarter
   * less, else BBR, which over 50 ms and 1 % loss moves 10 MB/s where CUBIC moves 0.4.
   */
  readonly congestionControl?: "adaptive" | "bbr" | "cubic";
  /** Milliseconds of silence after which a connection is lost. Default 60,000, as stock peers. */
  readonly idleTimeout?: number;
  /** Milliseconds of silence after which a client asks whether the peer is there. Default 3,000, as stock peers. */
  readonly keepAlive?: number;
  /** Milliseconds for a client to finish its handshake with a server. Default 10,000. */
  readonly handshakeTimeout?: number;
  /**
   * Whom a server is for. `vortex`, the default: peers of this library. `stock`: stock Dragonfly peers, which name no
   * application protocol in the handshake; of this library's peers only those on Deno reach such a server, since the QUIC of the
   * others cannot leave the name out. One socket cannot have both: Deno does not let a server choose by what a client offers.
   * A client needs no such choice, it finds out.
   */
  readonly clients?: "vortex" | "stock";
}

/** {@link DenoQuicOptions} with the defaults filled in. */
export type DenoQuicSettings = Required<DenoQuicOptions>;

/** The application protocols that a peer of this library offers, and a stock one: none. */
export const VORTEX_PROTOCOLS: readonly string[] = [ALPN];
export const STOCK_PROTOCOLS: readonly string[] = [];

/**
 * Fills the defaults in.
 * @throws `InvalidArgument` for a value out of its range
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

/** The settings that both sides share, in Deno's words. `loopback`: whoever comes is on this machine. */
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

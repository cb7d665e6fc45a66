/**
 * `vortex-peer/deno-quic`: QUIC on Deno's own API, which requires the flag `--unstable-net`.
 * Experimental, because that API is.
 *
 * @module
 */

export {
  type DenoQuicTransportOptions,
  denoQuicTransport,
} from "../adapters/deno-quic/lazy-transport.ts";
export type { DenoQuicOptions } from "../adapters/deno-quic/options.ts";

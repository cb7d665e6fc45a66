/**
 * `vortex-peer/deno-quic`: Deno's own QUIC, which needs the flag `--unstable-net`. Experimental, because that API is.
 *
 * @module
 */
export type { DenoQuicOptions } from "./deno-quic/options.ts";
export { type DenoQuicTransportOptions, denoQuicTransport } from "./deno-quic/transport.ts";

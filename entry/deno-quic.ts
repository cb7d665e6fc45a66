/**
 * `vortex-peer/deno-quic`: Deno's own QUIC, which needs the flag `--unstable-net`. Experimental, because that API is.
 *
 * @module
 */
export type { DenoQuicOptions } from "../adapters/deno-quic/options.ts";
export {
  type DenoQuicTransportOptions,
  denoQuicTransport,
} from "../adapters/deno-quic/transport.ts";

/**
 * `vortex-peer/node-quic`: QUIC on node:quic, for Bun, whose own it is. Experimental, because that module is.
 *
 * @module
 */
export type { NodeQuicOptions } from "../adapters/node-quic/options.ts";
export {
  type NodeQuicTransportOptions,
  nodeQuicTransport,
} from "../adapters/node-quic/transport.ts";

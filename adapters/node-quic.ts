/**
 * `vortex-peer/node-quic`: QUIC on node:quic, for Bun, whose own it is. Experimental, because that module is.
 *
 * @module
 */
export type { NodeQuicOptions } from "./node-quic/options.ts";
export { type NodeQuicTransportOptions, nodeQuicTransport } from "./node-quic/transport.ts";

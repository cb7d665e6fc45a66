/**
 * `vortex-peer/node-quic`: QUIC on Bun's built-in node:quic. Experimental, because that module is.
 *
 * @module
 */

export {
  type NodeQuicTransportOptions,
  nodeQuicTransport,
} from "../adapters/node-quic/lazy-transport.ts";
export type { NodeQuicOptions } from "../adapters/node-quic/options.ts";

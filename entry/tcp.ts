/**
 * `vortex-peer/tcp`: TCP transport on node:net, for Node, Bun and Deno.
 *
 * @module
 */
export { tcpTransport } from "../adapters/tcp/transport.ts";

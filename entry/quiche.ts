/**
 * `vortex-peer/quiche`: QUIC on quiche, for Node and Bun. It requires the optional package
 * `@matrixai/quic` and fails with `Unavailable` without it.
 *
 * @module
 */
export type { QuicheOptions } from "../adapters/quiche/options.ts";
export { type QuicheTransportOptions, quicheTransport } from "../adapters/quiche/transport.ts";

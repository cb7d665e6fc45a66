/**
 * `vortex-peer/quiche`: QUIC on quiche, for Node and Bun. It requires the optional package
 * `@matrixai/quic` and fails with `Unavailable` without it.
 *
 * @module
 */

export { type QuicheTransportOptions, quicheTransport } from "../adapters/quiche/lazy-transport.ts";
export type { QuicheOptions } from "../adapters/quiche/options.ts";

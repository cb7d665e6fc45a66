/**
 * The face of Bun: the core, with QUIC on Bun's own node:quic, TCP on node:net and gRPC on node:http2.
 *
 * @module
 */
import { type Face, faceOf } from "./face.ts";
import { withFallback } from "./fallback.ts";
import { nodeQuicTransport } from "./node-quic/transport.ts";
import { quicheTransport } from "./quiche/transport.ts";
import { tcpTransport } from "./tcp/transport.ts";

export * from "./everywhere.ts";
export type { NodeQuicOptions } from "./node-quic/options.ts";
export { type NodeQuicTransportOptions, nodeQuicTransport } from "./node-quic/transport.ts";
export type { QuicheOptions } from "./quiche/options.ts";
export { type QuicheTransportOptions, quicheTransport } from "./quiche/transport.ts";

const quic = withFallback(
  [
    ["node:quic", nodeQuicTransport],
    ["quiche", quicheTransport],
  ],
  tcpTransport,
);

const face: Face = faceOf(quic);
export const createDownloader: Face["createDownloader"] = face.createDownloader;
export const startServer: Face["startServer"] = face.startServer;
export const statTask: Face["statTask"] = face.statTask;

/**
 * The face of Node: the core, with QUIC on quiche, TCP on node:net and gRPC on node:http2.
 *
 * @module
 */
import { type Face, faceOf } from "./face.ts";
import { quicheTransport } from "./quiche/transport.ts";

export * from "./everywhere.ts";
export type { QuicheOptions } from "./quiche/options.ts";
export { type QuicheTransportOptions, quicheTransport } from "./quiche/transport.ts";

const face: Face = faceOf(quicheTransport);
export const createDownloader: Face["createDownloader"] = face.createDownloader;
export const startServer: Face["startServer"] = face.startServer;
export const statTask: Face["statTask"] = face.statTask;

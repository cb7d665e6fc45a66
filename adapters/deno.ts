/**
 * The face of Deno: the core, with QUIC on Deno's own, TCP on node:net and gRPC on node:http2. QUIC needs the flag
 * `--unstable-net`.
 *
 * @module
 */
import { denoQuicTransport } from "./deno-quic/transport.ts";
import { type Face, faceOf } from "./face.ts";
import { withFallback } from "./fallback.ts";
import { tcpTransport } from "./tcp/transport.ts";

export type { DenoQuicOptions } from "./deno-quic/options.ts";
export { type DenoQuicTransportOptions, denoQuicTransport } from "./deno-quic/transport.ts";
export * from "./everywhere.ts";

const quic = withFallback([["Deno's QUIC", denoQuicTransport]], tcpTransport);

const face: Face = faceOf(quic);
export const createDownloader: Face["createDownloader"] = face.createDownloader;
export const startServer: Face["startServer"] = face.startServer;
export const statTask: Face["statTask"] = face.statTask;

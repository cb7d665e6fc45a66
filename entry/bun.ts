/**
 * Entry point for Bun: the core plus QUIC on quiche, TCP on node:net and gRPC on node:http2.
 * QUIC on Bun's own node:quic is opt-in, see {@link nodeQuicTransport}.
 *
 * @module
 */

import { quicheTransport } from "../adapters/quiche/transport.ts";
import { withFallback } from "../adapters/shared/fallback.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { type Face, faceOf } from "./face.ts";

export * from "./everywhere.ts";
export * from "./node-quic.ts";
export * from "./quiche.ts";

// node:quic is not the default: one datagram that Bun 1.4 cannot answer, such as one from port 0,
// silences every connection of its socket.
const quic = withFallback([["quiche", quicheTransport]], tcpTransport);

const face: Face = faceOf(quic);
/**
 * Creates a downloader for the protocol in the options. Throws `InvalidArgument` for bad options.
 */
export const createDownloader: Face["createDownloader"] = face.createDownloader;
/**
 * Starts a server that offers a piece store over QUIC, TCP and gRPC, or some of them.
 *
 * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable` or `Unavailable`, and with
 * `StorageFailed` when the identity store fails to load or save the certificate.
 */
export const startServer: Face["startServer"] = face.startServer;
/**
 * Queries a peer over gRPC for a task's content length and piece length.
 * Rejects like {@link GrpcDownloader.statTask}.
 */
export const statTask: Face["statTask"] = face.statTask;

/**
 * The face of Bun: the core, with QUIC on quiche, TCP on node:net and gRPC on node:http2. QUIC on Bun's own node:quic
 * is there by name only ({@link nodeQuicTransport}).
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

// Not on node:quic: one datagram that Bun 1.4 cannot answer, such as one from port 0, silences every connection of a socket.
const quic = withFallback([["quiche", quicheTransport]], tcpTransport);

const face: Face = faceOf(quic);
/** Makes a downloader for the protocol that the options name. Throws `InvalidArgument`. */
export const createDownloader: Face["createDownloader"] = face.createDownloader;
/**
 * Serves a store over any of QUIC, TCP and gRPC.
 * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable`, `Unavailable`, or `StorageFailed` for a kept certificate.
 */
export const startServer: Face["startServer"] = face.startServer;
/** Asks a peer over gRPC how a task is cut into pieces. Rejects as {@link GrpcDownloader.statTask} does. */
export const statTask: Face["statTask"] = face.statTask;

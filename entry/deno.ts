/**
 * The face of Deno: the core, with QUIC on Deno's own, TCP on node:net and gRPC on node:http2. QUIC needs the flag
 * `--unstable-net`.
 *
 * @module
 */
import { denoQuicTransport } from "../adapters/deno-quic/transport.ts";
import { withFallback } from "../adapters/shared/fallback.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { type Face, faceOf } from "./face.ts";

export * from "./deno-quic.ts";
export * from "./everywhere.ts";

const quic = withFallback([["Deno's QUIC", denoQuicTransport]], tcpTransport);

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

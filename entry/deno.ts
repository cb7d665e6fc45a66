/**
 * Entry point for Deno: the core plus QUIC on Deno's own API, TCP on node:net and gRPC on
 * node:http2. QUIC requires the flag `--unstable-net`.
 *
 * @module
 */
import { denoApi } from "./deno-api.ts";
import type { RuntimeApi } from "./runtime-api.ts";

export * from "./deno-quic.ts";
export * from "./everywhere.ts";

const api: RuntimeApi = denoApi();
/**
 * Creates a downloader for the protocol in the options. Throws `InvalidArgument` for bad options.
 */
export const createDownloader: RuntimeApi["createDownloader"] = api.createDownloader;
/**
 * Starts a server that offers a piece store over QUIC, TCP and gRPC, or some of them.
 *
 * Rejects with `InvalidArgument`, `AddressInUse`, `Unreachable` or `Unavailable`, and with
 * `StorageFailed` when the identity store fails to load or save the certificate.
 */
export const startServer: RuntimeApi["startServer"] = api.startServer;
/**
 * Queries a peer over gRPC for a task's content length and piece length.
 * Rejects like {@link GrpcDownloader.statTask}.
 */
export const statTask: RuntimeApi["statTask"] = api.statTask;

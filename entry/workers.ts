/**
 * Entry point for edge workers (Cloudflare Workers and other hosts of workerd): the core plus TCP
 * on `cloudflare:sockets`. It downloads only, has no server, and needs no compatibility flag.
 *
 * Create a downloader in each request handler: workerd ties a socket to the request that opened it.
 *
 * @module
 */

import { workersTransport } from "../adapters/workers/transport.ts";
import { type DownloaderOptions, downloaderFactory } from "../src/client/factory.ts";
import type { Downloader } from "../src/client/task-downloader.ts";
import { VortexDownloader } from "../src/client/vortex/downloader.ts";
import { VortexError } from "../src/errors.ts";
import { portableRuntime } from "../src/runtime.ts";

export * from "./root.ts";

/**
 * Creates a downloader. Only `protocol: "tcp"` works in edge workers; calls over other protocols
 * fail with `Unavailable`. Throws `InvalidArgument` for bad options.
 */
export const createDownloader: (options?: DownloaderOptions) => Downloader = downloaderFactory({
  runtime: portableRuntime,
  quic: () => unavailable("QUIC", "UDP"),
  tcp: async () => workersTransport,
  grpc: (settings) => new VortexDownloader(() => unavailable("gRPC", "an HTTP/2 client"), settings),
});

function unavailable(protocol: string, missing: string): Promise<never> {
  const message = `${protocol}: needs ${missing}, which edge workers do not have; use protocol "tcp"`;
  return Promise.reject(new VortexError("Unavailable", message));
}

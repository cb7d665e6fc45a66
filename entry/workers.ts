/**
 * The face of edge workers (Cloudflare Workers and other hosts of workerd): the core, with TCP on `cloudflare:sockets`. It
 * fetches and does not serve, and needs no compatibility flag.
 *
 * Make a downloader in the handler of each request: workerd ties a socket to the request that opened it.
 *
 * @module
 */

import { workersTransport } from "../adapters/workers/transport.ts";
import { downloaderFactory, type TaskDownloaderFactory } from "../src/client/factory.ts";
import { VortexDownloader } from "../src/client/vortex/downloader.ts";
import { VortexError } from "../src/errors.ts";
import { portableRuntime } from "../src/runtime.ts";

export { type OpenTelemetryApi, openTelemetry } from "../adapters/opentelemetry.ts";
export { workersTransport } from "../adapters/workers/transport.ts";
export * from "./root.ts";

/** Makes a downloader; `protocol: "tcp"` is the one that works here. Throws `InvalidArgument`. */
export const createDownloader: TaskDownloaderFactory = downloaderFactory({
  runtime: portableRuntime,
  quic: () => unavailable("QUIC needs UDP, which edge workers do not have"),
  tcp: async () => workersTransport,
  grpc: (settings) =>
    new VortexDownloader(
      () => unavailable("gRPC needs an HTTP/2 client, which edge workers do not have"),
      settings,
    ),
});

function unavailable(why: string): Promise<never> {
  return Promise.reject(new VortexError("Unavailable", `${why}; use protocol "tcp"`));
}

import { grpcBinding } from "../adapters/grpc/client.ts";
import { downloaderSettings } from "../src/client/call/settings.ts";
import { GrpcDirectory } from "../src/client/grpc/directory.ts";
import { GrpcDownloader } from "../src/client/grpc/downloader.ts";
import { portableRuntime } from "../src/runtime.ts";
import type { CliDirectory, DirectoryFlags } from "./sdk.ts";

/**
 * Creates a client that queries peers over gRPC for their tasks, see {@link
 * Sdk.createDirectory}.
 */
export function createDirectory({ tls, ...options }: DirectoryFlags): CliDirectory {
  const binding = grpcBinding(tls && { tls });
  const downloader = new GrpcDownloader(
    async () => binding,
    downloaderSettings(options, portableRuntime),
  );
  return Object.assign(new GrpcDirectory(downloader), {
    [Symbol.asyncDispose]: () => downloader.close(),
  });
}

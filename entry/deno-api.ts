import { denoQuicTransport } from "../adapters/deno-quic/lazy-transport.ts";
import { withFallback } from "../adapters/shared/fallback.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { type RuntimeApi, runtimeApi } from "./runtime-api.ts";

/** Builds the {@link RuntimeApi} of Deno. See {@link runtimeApi} for `warn`. */
export function denoApi(warn?: (line: string) => void): RuntimeApi {
  return runtimeApi(withFallback([["Deno's QUIC", denoQuicTransport]], tcpTransport, warn), warn);
}

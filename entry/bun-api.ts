import { quicheTransport } from "../adapters/quiche/lazy-transport.ts";
import { withFallback } from "../adapters/shared/fallback.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { type RuntimeApi, runtimeApi } from "./runtime-api.ts";

/** Builds the {@link RuntimeApi} of Bun. See {@link runtimeApi} for `warn`. */
export function bunApi(warn?: (line: string) => void): RuntimeApi {
  // node:quic is not the default: one datagram that Bun 1.4 cannot answer, such as one from port 0,
  // silences every connection of its socket.
  return runtimeApi(withFallback([["quiche", quicheTransport]], tcpTransport, warn), warn);
}

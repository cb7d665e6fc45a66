import { quicheTransport } from "../adapters/quiche/lazy-transport.ts";
import { type RuntimeApi, runtimeApi } from "./runtime-api.ts";

/** Builds the {@link RuntimeApi} of Node. See {@link runtimeApi} for `warn`. */
export function nodeApi(warn?: (line: string) => void): RuntimeApi {
  return runtimeApi(quicheTransport, warn);
}

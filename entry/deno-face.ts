import { denoQuicTransport } from "../adapters/deno-quic/transport.ts";
import { withFallback } from "../adapters/shared/fallback.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { type Face, faceOf } from "./face.ts";

/** Builds the {@link Face} of Deno. See {@link faceOf} for `warn`. */
export function denoFace(warn?: (line: string) => void): Face {
  return faceOf(withFallback([["Deno's QUIC", denoQuicTransport]], tcpTransport, warn), warn);
}

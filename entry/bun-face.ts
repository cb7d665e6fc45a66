import { quicheTransport } from "../adapters/quiche/transport.ts";
import { withFallback } from "../adapters/shared/fallback.ts";
import { tcpTransport } from "../adapters/tcp/transport.ts";
import { type Face, faceOf } from "./face.ts";

/** Builds the {@link Face} of Bun. See {@link faceOf} for `warn`. */
export function bunFace(warn?: (line: string) => void): Face {
  // node:quic is not the default: one datagram that Bun 1.4 cannot answer, such as one from port 0,
  // silences every connection of its socket.
  return faceOf(withFallback([["quiche", quicheTransport]], tcpTransport, warn), warn);
}

import { quicheTransport } from "../adapters/quiche/transport.ts";
import { type Face, faceOf } from "./face.ts";

/** Builds the {@link Face} of Node. See {@link faceOf} for `warn`. */
export function nodeFace(warn?: (line: string) => void): Face {
  return faceOf(quicheTransport, warn);
}

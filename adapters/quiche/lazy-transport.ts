import { loadPart } from "../../src/load.ts";
import type { Transport } from "../../src/transport/transport.ts";
import type { QuicheTransportOptions } from "./transport.ts";

export type { QuicheTransportOptions } from "./transport.ts";

/**
 * Creates a QUIC transport that uses Cloudflare's quiche, through the native binding of the package
 * @matrixai/quic. Runs on Node and Bun.
 *
 * Rejects with `Unavailable` if the binding has no binary for this platform, and with
 * `InvalidArgument` if an option is out of range.
 */
export async function quicheTransport(options: QuicheTransportOptions = {}): Promise<Transport> {
  const { quicheTransportWith } = await loadPart("QUIC on quiche", () => import("./transport.ts"));
  return quicheTransportWith(undefined, options);
}

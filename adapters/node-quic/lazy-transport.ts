import { loadPart } from "../../src/load.ts";
import type { Transport } from "../../src/transport/transport.ts";
import type { NodeQuicTransportOptions } from "./transport.ts";

export type { NodeQuicTransportOptions } from "./transport.ts";

/**
 * Creates a QUIC transport that uses the module `node:quic` of Bun. It is not the default
 * transport, since `node:quic` is experimental.
 *
 * Serve with it only on networks where every sender is trusted. If the system refuses to send a
 * datagram, Bun 1.4 retries this datagram and sends nothing else meanwhile. So a single datagram
 * from port 0, or from an address without a route, silences a server until the handshake with that
 * sender times out. This library does not notice.
 *
 * The transport has two more limitations compared to quiche:
 *
 * - Bun has no receive flow control, so a slow reader does not slow its sender down
 *   (`NodeQuicOptions.unreadLimit`).
 * - A certificate set by `Listener.setIdentity` is shown only to clients that send a server
 *   name (SNI).
 *
 * Rejects with `Unavailable` if the runtime has no `node:quic`, and with `InvalidArgument` if an
 * option is out of range.
 *
 * @experimental May change in a minor version, like `node:quic` itself.
 */
export async function nodeQuicTransport(
  options: NodeQuicTransportOptions = {},
): Promise<Transport> {
  const { nodeQuicTransportWith } = await loadPart(
    "QUIC on node:quic",
    () => import("./transport.ts"),
  );
  return nodeQuicTransportWith(undefined, options);
}

import { loadPart } from "../../src/load.ts";
import type { Transport } from "../../src/transport/transport.ts";
import type { DenoQuicTransportOptions } from "./transport.ts";

export type { DenoQuicTransportOptions } from "./transport.ts";

/**
 * Creates a QUIC transport that uses Deno's implementation, which requires the flag
 * `--unstable-net`. It can also dial dfdaemon: if a peer refuses the ALPN of this library, the peer
 * is dialled again without ALPN.
 *
 * Rejects with `Unavailable` if the runtime is not Deno or the flag is missing, and with
 * `InvalidArgument` if an option is out of range.
 *
 * @experimental May change in a minor version, as long as Deno's QUIC requires the flag.
 */
export async function denoQuicTransport(
  options: DenoQuicTransportOptions = {},
): Promise<Transport> {
  const { denoQuicTransportWith } = await loadPart(
    "QUIC on Deno's API",
    () => import("./transport.ts"),
  );
  return denoQuicTransportWith(undefined, options);
}

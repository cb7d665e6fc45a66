import process from "node:process";
import type { QuicBinding } from "../../adapters/shared/fallback.ts";

/** Returns the QUIC binding that the package's entry for this runtime uses. */
export async function quicOfRuntime(): Promise<QuicBinding> {
  if ("deno" in process.versions)
    return (await import("../../adapters/deno-quic/lazy-transport.ts")).denoQuicTransport;
  return (await import("../../adapters/quiche/lazy-transport.ts")).quicheTransport;
}

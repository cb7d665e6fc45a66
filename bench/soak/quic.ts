import process from "node:process";
import type { QuicBinding } from "../../adapters/shared/fallback.ts";

/** The QUIC that the runtime's own face takes. */
export async function quicOfRuntime(): Promise<QuicBinding> {
  if ("deno" in process.versions)
    return (await import("../../adapters/deno-quic/transport.ts")).denoQuicTransport;
  return (await import("../../adapters/quiche/transport.ts")).quicheTransport;
}

import { loadPart } from "../../src/load.ts";
import type * as Tls from "./tls.ts";

/** Loads the functions on certificates, which only servers, QUIC and gRPC over TLS need. */
export function loadTls(): Promise<typeof Tls> {
  return loadPart("the certificate functions", () => import("./tls.ts"));
}

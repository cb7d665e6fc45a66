/**
 * Test program: serves over QUIC and gRPC until a signal ends it.
 *
 *     signal-peer.ts FACE IDENTITY [own-handler | closed]
 *
 * FACE names the package entry point: `node`, `bun` or `deno`. IDENTITY is a `TlsIdentity` in JSON.
 * Prints the address of each of its two servers. With `own-handler` it handles SIGTERM itself:
 * prints `handled`, then exits with code 7 once both servers are closed. With `closed` it closes
 * its servers at once, prints `closed`, and stays alive.
 */
import process from "node:process";
import type { RuntimeApi } from "../../entry/runtime-api.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";

const [, , face, identity = "", mode] = process.argv;
const tls = JSON.parse(identity) as TlsIdentity;
const { startServer } = await apiOf(face);
const options = { store: new MemoryPieceStore(), host: "127.0.0.1", tls, closeOnSignals: true };
const quic = await startServer({ ...options, quic: { port: 0 } });
const grpc = await startServer({ ...options, grpc: { port: 0 } });
if (mode === "own-handler") {
  process.on("SIGTERM", () => {
    console.log("handled");
    void Promise.all([quic.close(), grpc.close()]).then(() => process.exit(7));
  });
}
for (const address of [quic.addresses.quic, grpc.addresses.grpc]) {
  if (address === undefined) throw new Error("a server has no address");
  console.log(formatAddress(address));
}
if (mode === "closed") {
  await Promise.all([quic.close(), grpc.close()]);
  console.log("closed");
}
setInterval(() => {}, 60_000);

/**
 * Imports only the entry point of the given runtime, because other entry points may not load on it.
 */
function apiOf(runtime: string | undefined): Promise<Pick<RuntimeApi, "startServer">> {
  if (runtime === "bun") return import("../../entry/bun.ts");
  return runtime === "deno" ? import("../../entry/deno.ts") : import("../../entry/node.ts");
}

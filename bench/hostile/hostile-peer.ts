/**
 * Hostile peer process, on Node. It answers every request with the fault that the id in it selects,
 * over all protocols.
 */
import { quicheTransport } from "../../adapters/quiche/lazy-transport.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { type Script, ScriptedServer } from "../../test/support/hostile.ts";
import { hostileGrpc } from "../../test/support/hostile-grpc.ts";
import { ScriptedHttp2Server } from "../../test/support/hostile-http2.ts";
import { hostileVortex } from "../../test/support/hostile-vortex.ts";
import { carryOutOrders } from "../program.ts";
import type { Addresses } from "../soak/load.ts";

const local = { host: "127.0.0.1", port: 0 };
/**
 * Time after which a silent stream is released, in ms: later than any stall timeout of the clients.
 */
const RELEASE_AFTER_MS = 5_000;

/**
 * Releases the stream later, since a socket that is not read never reports that its client is gone.
 */
const answerThenRelease: Script = async (exchange) => {
  await hostileVortex(exchange);
  setTimeout(() => {
    exchange.reset();
    exchange.stream.reader.cancel();
  }, RELEASE_AFTER_MS);
};

/** Runs the hostile peer process. `listen` is answered with {@link Addresses}. */
export async function runHostilePeer(identity: TlsIdentity): Promise<void> {
  const quic = await ScriptedServer.listen(
    await quicheTransport({ serverTls: identity }),
    local,
    answerThenRelease,
  );
  const tcp = await ScriptedServer.listen(tcpTransport, local, answerThenRelease);
  const grpc = await ScriptedHttp2Server.listen(hostileGrpc);
  carryOutOrders<"listen">(
    async (): Promise<Addresses> => ({
      quic: formatAddress(quic.address),
      tcp: formatAddress(tcp.address),
      grpc: grpc.addr,
    }),
    async () => {},
  );
}

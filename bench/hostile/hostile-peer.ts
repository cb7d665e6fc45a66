/** A peer that answers every request wrongly, as the id in it asks, over all protocols; on Node, in a process of its own. */
import { quicheTransport } from "../../adapters/quiche/transport.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { type Script, ScriptedServer } from "../../test/support/hostile.ts";
import { hostileGrpc } from "../../test/support/hostile-grpc.ts";
import { ScriptedHttp2Server } from "../../test/support/hostile-http2.ts";
import { hostileVortex } from "../../test/support/hostile-vortex.ts";
import { obey } from "../program.ts";
import type { Addresses } from "../soak/load.ts";

const local = { host: "127.0.0.1", port: 0 };
/** Milliseconds after which a stream is let go: later than anybody waits for what is to be silent. */
const SILENCE = 5_000;

/** A socket on which nobody reads does not tell that its client has gone. */
const thenLetGo: Script = async (exchange) => {
  await hostileVortex(exchange);
  setTimeout(() => {
    exchange.reset();
    exchange.stream.reader.cancel();
  }, SILENCE);
};

/** `listen` is answered with {@link Addresses}. */
export async function playHostilePeer(identity: TlsIdentity): Promise<void> {
  const quic = await ScriptedServer.listen(
    await quicheTransport({ serverTls: identity }),
    local,
    thenLetGo,
  );
  const tcp = await ScriptedServer.listen(tcpTransport, local, thenLetGo);
  const grpc = await ScriptedHttp2Server.listen(hostileGrpc);
  obey<"listen">(
    async (): Promise<Addresses> => ({
      quic: formatAddress(quic.address),
      tcp: formatAddress(tcp.address),
      grpc: grpc.addr,
    }),
    async () => {},
  );
}
